"""The measures: each is taken of all sides by turns, so that what else the machine does meets all alike."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from benchmark.hf_trainer import HuggingFaceTrainer
from benchmark.memory import Peak, peak_bytes
from benchmark.workload import Workload, endless, synchronize
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader

TURN_STEPS = 2  # before each turn is timed: what the others left in the caches is theirs
CLAIMED = ("baseline", "ours")  # whom the specification's claims are about


class Trains(Protocol):
    """One of those that are compared."""

    name: str
    what: str
    model: Any
    optimizer: torch.optim.Optimizer

    def step(self, batch: Batch) -> float: ...


class Side(Trains, Protocol):
    """One that also translates."""

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
    efficiency: dict[str, float] = field(default_factory=dict)
    """Real tokens / all positions, over an epoch; of who makes its own batches, over what it has trained on."""
    warmup_s: dict[str, float] = field(default_factory=dict)
    """Seconds of the steps before the first repeat, compilation included."""
    memory: dict[str, list[Peak]] = field(default_factory=lambda: defaultdict(list))
    train_tokens_per_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sentences_per_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    losses: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Loss of a target token in the last step of each repeat: all sides learn."""


def measure(work: Workload, sides: list[Any], amount: Amount, *, say: Callable[[str], None]) -> Figures:
    """Take all measures."""
    say("counting the batches of an epoch")
    figures = Figures({side.name: count_epoch(work.loader_of(side.name)) for side in sides}, amount.new_tokens)
    figures.new_tokens = amount.new_tokens or round(mean_target(work.plain))
    batches = {side.name: endless(work.loader_of(side.name)) for side in sides}
    readers = [side for side in sides if side.name in CLAIMED]
    for side in sides:
        say(f"warming up {side.name}")
        start = time.perf_counter()
        train(side, batches[side.name], amount.warmup)
        figures.warmup_s[side.name] = time.perf_counter() - start
    for side in readers:
        side.decode(next(batches["baseline"]).src, figures.new_tokens)
    for repeat in range(amount.repeats):
        say(f"repeat {repeat + 1} of {amount.repeats}")
        for side in turns(sides, repeat):
            train(side, batches[side.name], TURN_STEPS)
            speed, loss = train(side, batches[side.name], amount.steps)
            figures.train_tokens_per_s[side.name].append(speed)
            figures.losses[side.name].append(loss)
        src = next(batches["baseline"]).src
        for side in turns(readers, repeat):
            figures.sentences_per_s[side.name].append(decode(side, src, figures.new_tokens))
        for side in sides:
            if not isinstance(side, HuggingFaceTrainer):
                figures.memory[side.name].append(step_memory(side, next(batches[side.name])))
    for side in sides:
        own = isinstance(side, HuggingFaceTrainer)
        figures.efficiency[side.name] = side.efficiency if own else figures.epochs[side.name].efficiency
    return figures


def turns(sides: list[Any], repeat: int) -> list[Any]:
    """The sides in another order each time."""
    start = repeat % max(1, len(sides))
    return sides[start:] + sides[:start]


def train(side: Any, batches: Iterator[Batch], steps: int) -> tuple[float, float]:
    """Real tokens of source and target in a second of training, batches prepared meanwhile; and the last loss."""
    if isinstance(side, HuggingFaceTrainer):
        return side.train(steps)
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


def step_memory(side: Trains, batch: Batch) -> Peak:
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
