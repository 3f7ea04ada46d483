"""Texts that look like special tokens, and tiny tokenizers of the kinds that others publish."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from pytorch_dl.dataset.pretrained_tokenizer import take_over
from pytorch_dl.dataset.tokenizer import Tokenizer

LOOK_ALIKES = [
    "</s>",
    "<s>",
    "<pad>",
    "<unk>",
    "<bos>",
    "<eos>",
    "<|endoftext|>",
    "▁",
    "<0x41>",
    "Ġ",
    "<2de>",
    " ",
    "[UNK]",
]
END = "<|endoftext|>"


def gpt2_like() -> tokenizers.Tokenizer:
    vocabulary = {char: id for id, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary | {END: 256, "he": 257}, merges=[("h", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([END])
    return backend


def t5_like() -> tokenizers.Tokenizer:
    """Its model has the special tokens as ordinary pieces with the best scores, adds an end, cuts and pads."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("s", -3.0), ("a", -3.0), ("/", -4.0)]
    backend = tokenizers.Tokenizer(models.Unigram([*pieces, ("<", -5.0), (">", -5.0)], 2, False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    backend.enable_padding(length=50)
    backend.enable_truncation(3)
    return backend


def word_level() -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def publish(folder: Path, backend: tokenizers.Tokenizer, **specials: str) -> str:
    folder.mkdir(parents=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **specials})
    )
    return str(folder)


def pretrained(name: str) -> Tokenizer:
    """In this process: another one takes a second to begin."""
    pytest.importorskip("transformers")
    return Tokenizer(take_over(name), where=name)
