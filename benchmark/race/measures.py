"""The measures, as they are taken of one side in its own process."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmark.contenders.hf_trainer import HuggingFaceTrainer
from benchmark.contenders.side import Reads, Side
from benchmark.measuring.device_time import synchronize
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.training.live_memory import Peak, peak_bytes

TURN_STEPS = 2  # before each turn is timed: what the others left in the caches is theirs


class Description(NamedTuple):
    """What a side is."""

    what: str
    parameters: int
    flops_per_token: float | None
    """Of the matrix products of a training step, for each real token of both sides; None where nobody counts them."""


class Turn(NamedTuple):
    """Some steps of training."""

    tokens_per_s: float
    """Real tokens of source and target."""
    loss: float
    """Of a target token, in the last step."""


class Resident(NamedTuple):
    """Resident memory of a process in megabytes."""

    peak_mb: float
    by_training_mb: float
    """What came with the steps."""


class Epoch(NamedTuple):
    """An epoch's batches, counted."""

    batches: int
    pairs: int
    real_tokens: int
    positions: int

    @property
    def efficiency(self) -> float:
        """Real tokens / all positions, both sides."""
        return self.real_tokens / self.positions


def train(side: Side | HuggingFaceTrainer, batches: Iterator[Batch], steps: int) -> Turn:
    """Some steps of training, batches prepared meanwhile."""
    if isinstance(side, HuggingFaceTrainer):
        return Turn(*side.train(steps))
    tokens, loss = 0, float("nan")
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        batch = next(batches)
        loss = side.step(batch)
        tokens += batch.num_src_tokens + batch.num_tgt_tokens
    synchronize()
    return Turn(tokens / (time.perf_counter() - start), loss)


def decode(side: Reads, src: Tensor, new_tokens: int) -> float:
    """Sentences in a second of greedy search, each of exactly `new_tokens` tokens; src (B, S)."""
    synchronize()
    start = time.perf_counter()
    found = side.decode(src, new_tokens)
    synchronize()
    seconds = time.perf_counter() - start
    assert found.shape == (src.size(0), new_tokens), f"{side.name} wrote {tuple(found.shape)}"
    return src.size(0) / seconds


def step_memory(side: Side, batch: Batch) -> Peak:
    """Bytes of live tensors at the peak of a training step."""
    return peak_bytes(side.model, side.optimizer, lambda: side.step(batch))


def count_epoch(loader: BatchLoader) -> Epoch:
    """Count what the batches of the first epoch really hold."""
    batches = pairs = real = positions = 0
    for batch in loader.batches(0):
        batches += 1
        pairs += int((batch.pair_ids >= 0).sum())
        real += int(torch.count_nonzero(batch.src_segments) + torch.count_nonzero(batch.tgt_segments))
        positions += batch.num_positions
    return Epoch(batches, pairs, real, positions)


def mean_target(loader: BatchLoader) -> float:
    """Tokens of a target in the mean, its end included."""
    planner = loader.planner
    return float(planner.lengths.take(planner.kept).tgt.mean())
