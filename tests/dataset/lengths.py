"""Lengths of pairs like those of real text, made up or counted."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from pytorch_dl.dataset.planning import Lengths


def lognormal_lengths(count: int, *, seed: int = 1) -> Lengths:
    """Lengths spread as Multi30k's are: about 14 tokens, the target about as long as the source."""
    rng = np.random.default_rng(seed)
    src = np.clip(np.exp(rng.normal(2.6, 0.27, count)).round(), 2, 128).astype(np.int64)
    tgt = np.clip((src * np.exp(rng.normal(-0.05, 0.16, count))).round(), 2, 128).astype(np.int64)
    return Lengths(src, tgt)


def multi30k_lengths() -> Lengths:
    """Words and marks of each caption, where the data is at hand."""
    folder = Path(os.environ.get("PYTORCH_DL_DATA", "../shared/data")) / "multi30k"
    if not (folder / "train.en.gz").exists():
        pytest.skip(f"no Multi30k in {folder.parent}: set PYTORCH_DL_DATA")
    sides = []
    for language in ("en", "de"):
        with gzip.open(folder / f"train.{language}.gz", "rt", encoding="utf-8", newline="\n") as file:
            sides.append(np.array([len(line.replace(".", " .").replace(",", " ,").split()) + 1 for line in file]))
    assert len(sides[0]) == len(sides[1]) == 29_000
    return Lengths(*sides)
