"""One optimizer step: begun on the device, and read when its numbers have come from there.

Shapes: N batches of the step, on all processes.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.memory import names_its_batch
from pytorch_dl.training.objective import batch_loss, dropout_keys, seed_generators
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.precision import Precision, autocast
from pytorch_dl.training.recorded_passes import RecordedPasses
from pytorch_dl.training.sharding import exchanging, gradient_sum, made_up_batch
from pytorch_dl.training.step_parts import BACKWARD, FORWARD, OPTIMIZER, REPLAY, part
from pytorch_dl.training.train_state import Sums
from pytorch_dl.training.update import StepNumbers, WeightUpdate


class Counts(NamedTuple):
    """What is counted of a step's batches, and what a process has to tell the others with it."""

    src_tokens: float
    tgt_tokens: float
    positions: float
    stops: float = 0  # signals that ask to stop
    seconds: float = 0  # of training, by the clock of the first process


@dataclass(frozen=True)
class Reading:
    """A step that was begun; nothing waits for the device until `read`."""

    update: WeightUpdate
    step: int
    batches: Mapping[int, Batch]
    on_host: Tensor  # (3,), the fields of StepNumbers, or with those of Counts (8,), perhaps still on their way
    copied: Any  # a CUDA event, or None where there is nothing to wait for
    counts: Counts  # of this process

    def read(self) -> Sums:
        """The sums of the step on all processes; raises NonFiniteError where loss or gradients were not finite."""
        if self.copied:
            self.copied.synchronize()
        numbers, counts = StepNumbers(*self.on_host[:3].tolist()), self.all_counts
        self.update.check(numbers, self.step)
        tokens = {name: int(getattr(counts, name)) for name in ("src_tokens", "tgt_tokens", "positions")}
        return Sums(steps=1, **numbers._asdict(), **tokens)

    @property
    def all_counts(self) -> Counts:
        """Of all processes, once the step was read."""
        return Counts(*self.on_host[3:].tolist()) if len(self.on_host) > 3 else self.counts


class Passes:
    """Forward and backward passes: a batch's gradients are added to those of the weights.

    With `recorded`, they are replayed on a GPU.
    """

    def __init__(
        self,
        model: OptimizedTransformer,
        update: WeightUpdate,
        *,
        seed: int,
        precision: Precision,
        label_smoothing: float,
    ) -> None:
        self.model, self.update, self.seed = model, update, seed
        self.precision, self.label_smoothing = precision, label_smoothing
        self.recorded: RecordedPasses | None = None
        self.device = next(model.parameters()).device

    @names_its_batch
    def __call__(self, batch: Batch, *, step: int, slot: int, tokens: int | Tensor) -> Tensor:
        """One batch, its loss divided by all target tokens of the step; returns loss and nll, (2,)."""
        on_device = batch.to(self.device)
        keys = dropout_keys(on_device, seed=self.seed, step=step)
        if self.recorded:
            with part(REPLAY):
                return self.recorded(on_device, keys, tokens=tokens)
        # A GPU divides by a number of the host's otherwise than by one of its own.
        tokens = tokens if isinstance(tokens, Tensor) else torch.full((), float(tokens), device=self.device)
        seed_generators(self.seed, step, slot)
        with part(FORWARD), autocast(self.precision, self.device):
            loss = batch_loss(self.model, on_device, label_smoothing=self.label_smoothing, keys=keys)
        with part(BACKWARD):
            self.update.backward(loss.smoothed / tokens)
        return torch.stack((loss.smoothed.detach(), loss.nll))

    def for_others(self, *, step: int) -> None:
        """The passes of a batch that counts nothing."""
        self(made_up_batch(self.model), step=step, slot=0, tokens=torch.full((), math.inf, device=self.device))


def begin_step(
    passes: Passes,
    batches: Mapping[int, Batch],
    *,
    size: int,
    step: int,
    total_steps: int,
    peers: Peers,
    stops: bool = False,
    seconds: float = 0.0,
) -> Reading:
    """Update the weights by the summed loss of `size` batches, divided by all their target tokens.

    `batches` are those of this process, by their place among all; the others have the others.
    """
    own = _counted(batches, stops=stops, seconds=seconds if peers.is_first else 0.0)
    totals = torch.zeros(size, 2, dtype=torch.float64, device=passes.device)  # (N, 2): loss, nll
    if peers.size == 1:
        for slot, batch in batches.items():
            totals[slot] = passes(batch, step=step, slot=slot, tokens=int(own.tgt_tokens))
        told = totals.new_zeros(0)
    else:
        told = peers.add_up(torch.tensor(own, dtype=torch.float64, device=passes.device))
        gradients = gradient_sum(passes.model, peers, idle=partial(passes.for_others, step=step))
        with exchanging(passes.model, peers):
            for slots in _rounds(size, peers.size):
                for slot in filter(peers.is_mine, slots):
                    totals[slot] = passes(batches[slot], step=step, slot=slot, tokens=told[1].float())
                gradients.add_round(len(slots))
        gradients.spread()
        peers.add_up(totals)
    seed_generators(passes.seed, step, size)  # what a user's loader draws is then the same in all processes
    update = passes.update
    with part(OPTIMIZER), exchanging(passes.model, peers):
        numbers = update.apply(totals.sum(0), step=step, total_steps=total_steps)
    on_host = torch.cat((numbers, told.to(numbers.device))).to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(passes.device).record_event() if numbers.is_cuda else None
    return Reading(update, step, batches, on_host, copied, own)


def _rounds(size: int, processes: int) -> Iterator[range]:
    """The slots of a step, one for each process at a time."""
    return (range(start, min(size, start + processes)) for start in range(0, size, processes))


def _counted(batches: Mapping[int, Batch], *, stops: bool, seconds: float) -> Counts:
    return Counts(
        src_tokens=sum(batch.num_src_tokens for batch in batches.values()),
        tgt_tokens=sum(batch.num_tgt_tokens for batch in batches.values()),
        positions=sum(batch.num_positions for batch in batches.values()),
        stops=float(stops),
        seconds=seconds,
    )
