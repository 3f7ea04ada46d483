"""How long a training waits for its data: a loader in, seconds out."""

import statistics
import time
from dataclasses import dataclass

from benchmark.contenders.ours import Ours
from benchmark.race.workload import endless
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.dataset.loader import BatchLoader

WARMUP = 2  # steps, the first of which compiles
EPOCHS = 3  # that are planned and gone through


@dataclass(frozen=True)
class Wait:
    """Seconds; of a plan and of a batch the median over some epochs after the first."""

    first_plan_s: float  # which finds the shape of all batches as well
    first_batch_s: float  # from the start, tokenizer and token store included
    batches: float  # of an epoch
    plan_s: float  # that is still to wait for an epoch's plan when the epoch before is gone through
    wait_s: float  # for a batch, by who does nothing else: the mean over an epoch

    @property
    def per_batch_s(self) -> float:
        """What a batch costs in all; a training that computes meanwhile waits less."""
        return self.wait_s + self.plan_s / self.batches


def wait_for(data: DataModule, *, started: float) -> tuple[Wait, BatchLoader]:
    """Measure what was prepared from `started` on, of time.perf_counter."""
    loader = data.train_dataloader()
    begun = time.perf_counter()
    loader.plan(0)
    first_plan_s = time.perf_counter() - begun
    first_epoch = loader.batches(0)
    next(first_epoch)
    first_batch_s = time.perf_counter() - started
    del first_epoch  # its thread ends
    plans, waits, batches = [], [], []
    for epoch in range(1, EPOCHS + 1):
        begun = time.perf_counter()
        batches.append(len(loader.plan(epoch)))
        planned = time.perf_counter()
        passed = sum(1 for _ in loader.batches(epoch))
        plans.append(planned - begun)
        waits.append((time.perf_counter() - planned) / passed)
    return Wait(first_plan_s, first_batch_s, *map(statistics.median, (batches, plans, waits))), loader


def time_steps(ours: Ours, loader: BatchLoader, *, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of each step of training, and those that it waited for its batch."""
    seconds, waited = [], []
    batches = endless(loader)
    for _ in range(WARMUP + steps):
        begun = time.perf_counter()
        batch = next(batches)
        came = time.perf_counter()
        ours.step(batch)
        seconds.append(time.perf_counter() - came)
        waited.append(came - begun)
    return seconds[WARMUP:], waited[WARMUP:]
