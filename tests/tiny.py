"""A tiny model and batches of random pairs in memory, with which a trainer takes a few milliseconds a step."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from pytorch_dl.config.model_config import LoggingConfig, TrainingConfig
from pytorch_dl.dataset.batching import Batch, Special, token_ids_of
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.planning import Lengths, Planner
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.trainer import OptimizedTrainer

VOCAB = 48
SPECIAL = Special(pad_id=0, bos_id=1, eos_id=2)
QUIET = LoggingConfig(log_every=1, tensorboard=False)


def tiny_model(*, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> OptimizedTransformer:
    """1 + 1 layers of width 16, with dropout."""
    torch.manual_seed(seed)
    shape = {"d_model": 16, "n_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": 0.1}
    sizes = {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB, "max_seq_len": 64}
    return OptimizedTransformer(**{**sizes, **shape, **changes}).to(dtype)


def random_sentences(count: int, *, seed: int, longest: int = 9) -> list[list[int]]:
    """Ids of texts, without begin and end ids; some are empty."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, size=rng.integers(0, longest + 1)).tolist() for _ in range(count)]


def tiny_loader(
    count: int = 24,
    *,
    seed: int = 1,
    max_tokens: int = 40,
    batch_size: int | None = None,
    packed: bool = False,
    workers: int = 0,
    corpora: list[tuple[int, int, float]] | None = None,
) -> BatchLoader:
    """Batches of `count` random pairs, a function of the seed."""
    src, tgt = random_sentences(count, seed=seed), random_sentences(count, seed=seed + 1000)
    lengths = Lengths(np.array([len(ids) + 1 for ids in src]), np.array([len(ids) + 1 for ids in tgt]))
    planner = Planner(
        lengths,
        np.arange(count),
        corpora or [(0, count, 1.0)],
        seed=seed,
        max_tokens=max_tokens,
        batch_size=batch_size,
        packed=packed,
    )
    sides = token_ids_of(src), token_ids_of(tgt)
    return BatchLoader(
        planner, *sides, SPECIAL, vocab_sizes=(VOCAB, VOCAB), workers=workers, prefetch=2, pin_memory=False
    )


def tiny_trainer(
    folder: Path | None = None, *, settings: dict[str, Any] | None = None, **changes: Any
) -> OptimizedTrainer:
    """A trainer that saves into `folder`; `settings` are of TrainingConfig, `changes` are arguments of the trainer."""
    given: dict[str, Any] = {
        "model": changes.get("model") or tiny_model(),
        "train_dataloader": tiny_loader(),
        "val_dataloader": tiny_loader(6, seed=2),
        "training": TrainingConfig(**{"mixed_precision": False, "num_epochs": 2, **(settings or {})}),
        "logging": QUIET,
        "progress": silent(),
        "log_dir": folder,
        "checkpoint_dir": folder / "checkpoints" if folder else None,
    }
    return OptimizedTrainer(**{**given, **changes})


def silent() -> Progress:
    """Progress that nobody sees; `progress.console.file.getvalue()` is what it said."""
    return Progress(Console(file=io.StringIO(), soft_wrap=True))


def texts_of(batch: Batch) -> Iterator[tuple[int, list[int], list[int], list[int]]]:
    """Unpack a batch: (pair id, src, tgt_in, labels) of each pair, as lists of ids."""
    for row, ids in enumerate(batch.pair_ids.tolist()):
        for segment, pair in enumerate(ids, 1):
            if pair >= 0:
                on_src, on_tgt = batch.src_segments[row] == segment, batch.tgt_segments[row] == segment
                src, tgt_in, labels = batch.src[row][on_src], batch.tgt_in[row][on_tgt], batch.labels[row][on_tgt]
                yield pair, src.tolist(), tgt_in.tolist(), labels.tolist()
