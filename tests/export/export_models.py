"""Every shape of model that the config can express, tiny, with random weights everywhere; and tokenizers for them."""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.dataset.tokenizer_folder import ROLES, Definition
from pytorch_dl.dataset.tokenizer_training import SPECIALS, train
from pytorch_dl.models.optimized_transformer import OptimizedTransformer

Choice = dict[str, Any]
CHOICES: dict[str, Sequence[Any]] = {
    "activation": ("relu", "gelu", "swiglu", "geglu"),
    "norm_type": ("rmsnorm", "layernorm"),
    "norm_first": (True, False),
    "positions": ("rope", "sinusoidal", "learned"),
    "bias": (False, True),
    "n_kv_heads": (None, 2, 1),
    "vocabularies": (("shared", "all"), ("shared", "decoder"), ("shared", "none"), ("two", "decoder"), ("two", "none")),
    "depths": ((1, 1), (2, 1), (1, 2)),
    "d_ff": (None, 20),
    "attention": ("auto", "sdpa", "plain"),
}
# What decides the specification; the rest is drawn beside it.
DECISIVE = ("activation", "norm_type", "norm_first", "positions", "bias", "n_kv_heads", "vocabularies", "depths")


def tokenizer(kind: str, text: str = "", *, vocab_size: int = 300) -> Tokenizer:
    """A tokenizer trained on a text."""
    backend = train(kind, [text], vocab_size=vocab_size)
    return Tokenizer(Definition(backend.to_str(), dict(zip(ROLES, SPECIALS, strict=True))), where="test")


ONE, OTHER = tokenizer("byte"), tokenizer("char", "äöüß日本")
TOKENIZERS = {"shared": TokenizerPair(ONE, ONE), "two": TokenizerPair(ONE, OTHER)}


def tiny(tokenizers: TokenizerPair, *, seed: int = 0, **changes: Any) -> OptimizedTransformer:
    """A model for these tokenizers, far from the weights that it would begin with."""
    torch.manual_seed(seed)
    shape: Choice = {"d_model": 16, "n_heads": 4, "num_encoder_layers": 1, "num_decoder_layers": 1, "max_seq_len": 24}
    sizes = {"src_vocab_size": tokenizers.src.vocab_size, "tgt_vocab_size": tokenizers.tgt.vocab_size}
    model = OptimizedTransformer(**sizes, **{**shape, "pad_token_id": tokenizers.tgt.pad_id, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
        model.output.weight[tokenizers.tgt.eos_id] *= 3  # some outputs end before their limit
    return model


def of_choice(choice: Choice, *, seed: int = 0) -> tuple[OptimizedTransformer, TokenizerPair]:
    """The model of a combination of CHOICES."""
    choice = dict(choice)
    which, tie = choice.pop("vocabularies")
    encoders, decoders = choice.pop("depths")
    changes = {"tie_embeddings": tie, "num_encoder_layers": encoders, "num_decoder_layers": decoders, **choice}
    return tiny(TOKENIZERS[which], seed=seed, **changes), TOKENIZERS[which]


def all_choices() -> Iterator[Choice]:
    """The whole product of what is decisive, with the rest in turn."""
    rest = [name for name in CHOICES if name not in DECISIVE]
    for number, values in enumerate(itertools.product(*(CHOICES[name] for name in DECISIVE))):
        beside = {name: CHOICES[name][number % len(CHOICES[name])] for name in rest}
        yield {**dict(zip(DECISIVE, values, strict=True)), **beside}


def pairwise_choices() -> list[Choice]:
    """Few combinations in which any two values of two settings come together."""
    wanted = {pair for names in itertools.combinations(CHOICES, 2) for pair in _pairs_of_values(names)}
    draw, kept = random.Random(1), []
    while wanted:
        candidates = [{name: draw.choice(values) for name, values in CHOICES.items()} for _ in range(60)]
        best = max(candidates, key=lambda choice: len(_pairs(choice) & wanted))
        if covered := _pairs(best) & wanted:
            kept.append(best)
            wanted -= covered
    return kept


def _pairs(choice: Choice) -> set[Any]:
    return set(itertools.combinations(choice.items(), 2))


def _pairs_of_values(names: tuple[str, str]) -> Iterator[Any]:
    first, second = names
    return (((first, a), (second, b)) for a in CHOICES[first] for b in CHOICES[second])


CALLABLES = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "F.gelu": F.gelu,
    "F.silu": F.silu,
    "torch.tanh": torch.tanh,
    "torch.sigmoid": torch.sigmoid,
}
