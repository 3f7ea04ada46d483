"""The measures: each is taken of both sides by turns, so that what else the machine does meets both alike."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from benchmark.memory import peak_bytes
from benchmark.workload import Workload, endless, synchronize
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader

NAMES = ("baseline", "ours")


class Side(Protocol):
    """One of the two that are compared."""

    name: str
    what: str
    model: Any

    def step(self, batch: Batch) -> float: ...
    def decode(self, src: Tensor, new_tokens: int) -> Tensor: ...


class Amount(NamedTuple):
    """How much is measured."""

    repeats: int
    steps: int  # of training in a repeat
    warmup: int  # steps before the first repeat
    new_tokens: int  # of each sentence; 0: the mean length of a target


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


@dataclass
class Figures:
    """What was measured, one list of repeats for each side."""

    epochs: dict[str, Epoch]
    new_tokens: int
    warmup_s: dict[str, float] = field(default_factory=dict)
    """Seconds of the steps before the first repeat, compilation included."""
    memory_mb: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    train_tokens_per_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    sentences_per_s: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    losses: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    """Loss of a target token in the last step of each repeat: both sides learn."""


def measure(work: Workload, sides: list[Side], amount: Amount, *, say: Callable[[str], None]) -> Figures:
    """Take all measures."""
    loaders = dict(zip(NAMES, (work.plain, work.loader), strict=True))
    say("counting the batches of an epoch")
    figures = Figures({name: count_epoch(loader) for name, loader in loaders.items()}, amount.new_tokens)
    tokens = figures.epochs["baseline"]
    figures.new_tokens = amount.new_tokens or round(mean_target(work.plain))
    say(f"{tokens.pairs:,} pairs, {tokens.real_tokens:,} tokens; warming up")
    batches = {name: endless(loader) for name, loader in loaders.items()}
    for side in sides:
        start = time.perf_counter()
        train(side, batches[side.name], amount.warmup)
        figures.warmup_s[side.name] = time.perf_counter() - start
        side.decode(next(batches["baseline"]).src, figures.new_tokens)
    for repeat in range(amount.repeats):
        say(f"repeat {repeat + 1} of {amount.repeats}")
        for side in sides if repeat % 2 == 0 else reversed(sides):
            speed, loss = train(side, batches[side.name], amount.steps)
            figures.train_tokens_per_s[side.name].append(speed)
            figures.losses[side.name].append(loss)
        src = next(batches["baseline"]).src
        for side in sides if repeat % 2 == 0 else reversed(sides):
            figures.sentences_per_s[side.name].append(decode(side, src, figures.new_tokens))
        for side in sides:
            figures.memory_mb[side.name].append(step_memory(side, next(batches[side.name])))
    return figures


def train(side: Side, batches: Iterator[Batch], steps: int) -> tuple[float, float]:
    """Real tokens of source and target in a second of training, batches prepared meanwhile; and the last loss."""
    tokens, loss = 0, float("nan")
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        batch = next(batches)
        loss = side.step(batch)
        tokens += batch.num_src_tokens + batch.num_tgt_tokens
    synchronize()
    return tokens / (time.perf_counter() - start), loss


def decode(side: Side, src: Tensor, new_tokens: int) -> float:
    """Sentences in a second of greedy search, each of exactly `new_tokens` tokens; src (B, S)."""
    synchronize()
    start = time.perf_counter()
    found = side.decode(src, new_tokens)
    synchronize()
    seconds = time.perf_counter() - start
    assert found.shape == (src.size(0), new_tokens), f"{side.name} wrote {tuple(found.shape)}"
    return src.size(0) / seconds


def step_memory(side: Side, batch: Batch) -> float:
    """Megabytes that a training step needs beside parameters, gradients and optimizer state."""
    model: nn.Module = side.model
    return peak_bytes(model, lambda: side.step(batch)) / 1e6


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
