"""Hugging Face's `datasets` as who prepares text: two files of lines in, a folder of token ids out.

As its users have it at its fastest here: read by its own reader of lines, tokenized in its batches of 1,000 by
`tokenizers` on all cores, ids of 4 bytes; with batches of 20,000 or lines that Python reads it is slower.
"""

import os
from pathlib import Path
from unittest.mock import patch

import tokenizers

from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair


def prepare_with_datasets(src: Path, tgt: Path, pair: TokenizerPair, folder: Path) -> None:
    """Write the token ids of both files into `folder`, with nothing found in a cache."""
    import datasets

    datasets.disable_progress_bars()
    encoders = {"src": _encoder(pair.src), "tgt": _encoder(pair.tgt)}

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {
            side: [found.ids for found in encoder.encode_batch_fast(batch[f"{side}_text"], add_special_tokens=False)]
            for side, encoder in encoders.items()
        }

    columns = [
        datasets.load_dataset("text", data_files=str(path), split="train", cache_dir=str(folder / "cache"))
        .rename_column("text", f"{side}_text")
        for side, path in (("src", src), ("tgt", tgt))
    ]  # fmt: skip
    ids = datasets.Features({side: datasets.List(datasets.Value("int32")) for side in encoders})
    with patch.dict(os.environ, TOKENIZERS_PARALLELISM="true"):  # as our side does
        datasets.concatenate_datasets(columns, axis=1).map(
            encode, batched=True, remove_columns=["src_text", "tgt_text"], features=ids
        ).save_to_disk(folder / "prepared")


def _encoder(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    encoder = tokenizers.Tokenizer.from_str(tokenizer.definition.json)
    encoder.encode_special_tokens = True  # as ours: the JSON does not keep it
    return encoder
