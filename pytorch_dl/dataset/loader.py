"""Batches of a token store, prepared ahead of the model by threads; any epoch can be had from any batch on."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from pytorch_dl.dataset.batching import Batch, Special, TokenIds, collate
from pytorch_dl.dataset.planning import Plan, Planner


class BatchLoader:
    """The batches of each epoch's plan. `workers` 0 prepares a batch when it is asked for."""

    def __init__(
        self,
        planner: Planner,
        src: TokenIds,
        tgt: TokenIds,
        special: Special,
        *,
        vocab_sizes: tuple[int, int],
        workers: int,
        prefetch: int,
        pin_memory: bool,
    ) -> None:
        self.planner, self.src, self.tgt, self.special = planner, src, tgt, special
        self.vocab_sizes = vocab_sizes
        self.workers, self.prefetch = workers, prefetch
        self.pin_memory = pin_memory and torch.cuda.is_available()
        self._plan: tuple[int, Plan] | None = None

    def __len__(self) -> int:
        """Batches of the first epoch; later ones differ by a few."""
        return len(self.plan(0))

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0)

    @property
    def has_one_shape(self) -> bool:
        """Whether all batches of all epochs have the same shape."""
        return self.planner.packed

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch; the last one asked for is kept."""
        if self._plan is None or self._plan[0] != epoch:
            self._plan = epoch, self.planner.plan(epoch)
        return self._plan[1]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches start, start + 1, ... of an epoch."""
        plan = self.plan(epoch)
        if not self.workers:
            yield from (self._batch(plan, index) for index in range(start, len(plan)))
            return
        ahead: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="batches") as pool:
            for index in range(start, len(plan)):
                ahead.append(pool.submit(self._batch, plan, index))
                if len(ahead) > self.workers * self.prefetch:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _batch(self, plan: Plan, index: int) -> Batch:
        batch = collate(plan, index, self.src, self.tgt, self.special)
        return batch.pin_memory() if self.pin_memory else batch
