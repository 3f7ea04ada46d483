"""Batches of a token store, prepared ahead of the model by threads; any epoch can be had from any batch on."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from threading import Thread

import numpy as np
import torch

from pytorch_dl.dataset.batching import Batch, Special, TokenIds, collate
from pytorch_dl.dataset.bucketing import Ints
from pytorch_dl.dataset.planning import Lengths, Plan, Planner


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
        self._next_plan: tuple[int, Future[Plan]] | None = None

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
            begun = self._next_plan if self._next_plan and self._next_plan[0] == epoch else None
            self._plan, self._next_plan = (epoch, begun[1].result() if begun else self.planner.plan(epoch)), None
        return self._plan[1]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches start, start + 1, ... of an epoch."""
        yield from (batch for batch in self.share(epoch, start, lambda _: True) if batch)

    def largest(self, epoch: int, start: int = 0) -> list[Batch]:
        """Of the padded batches start, start + 1, ... of an epoch, those that take most memory.

        What attention remembers grows with the pairs of positions, all else with the positions.
        """
        plan = self.plan(epoch)
        rows, src, tgt = (of_all[start:] for of_all in self.planner.shapes(plan))
        if not len(rows):
            return []
        sizes = (rows * (src + tgt), rows * (src**2 + src * tgt + tgt**2))
        return [self._batch(plan, start + index) for index in sorted({int(size.argmax()) for size in sizes})]

    def fullest(self, max_tokens: int) -> Batch:
        """Made-up pairs that take as much memory as any batch of so many tokens."""
        widths, longest = self.planner.fullest_widths, self.planner.longest
        rows, token = -(-max_tokens // max(widths)), int(self.special.pad_id == 0)
        src, tgt = (torch.full((rows, width), token) for width in (widths.src, 1 + widths.tgt))
        batch = Batch.from_padded(src, tgt, pad_id=self.special.pad_id)
        positions = {name: getattr(batch, name) % longest for name in ("src_positions", "tgt_positions")}
        return replace(batch, **positions)

    def fill(self, max_tokens: int) -> None:
        """Fill the batches of all epochs by so many tokens from now on."""
        self.planner = replace(self.planner, max_tokens=max_tokens)
        self._plan = self._next_plan = None

    def share(self, epoch: int, start: int, is_mine: Callable[[int], bool]) -> Iterator[Batch | None]:
        """The same, with None in place of those whose number in the epoch is not mine: they are not made."""
        plan = self.plan(epoch)
        if not self.workers:
            yield from (self._batch(plan, index) if is_mine(index) else None for index in range(start, len(plan)))
            return
        ahead: deque[Future[Batch] | None] = deque()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="batches") as pool:
            self._begin_plan(epoch + 1)
            wanted = iter(range(start, len(plan)))
            most = self.workers * self.prefetch
            while True:
                if len(ahead) <= most // 2:  # several at once: each waking of a thread costs as much as half a batch
                    ahead += [
                        pool.submit(self._batch, plan, index) if is_mine(index) else None
                        for index in islice(wanted, most + 1 - len(ahead))
                    ]
                if not ahead:
                    return
                first = ahead.popleft()
                yield first.result() if first else None

    def _begin_plan(self, epoch: int) -> None:
        """Make a plan meanwhile, in a thread that nothing waits for when training ends earlier."""
        if self._next_plan and self._next_plan[0] == epoch:
            return
        future: Future[Plan] = Future()

        def work() -> None:
            try:
                future.set_result(self.planner.plan(epoch))
            except BaseException as error:
                future.set_exception(error)

        self._next_plan = epoch, future
        Thread(target=work, name="plan", daemon=True).start()

    def _batch(self, plan: Plan, index: int) -> Batch:
        batch = collate(plan, index, self.src, self.tgt, self.special)
        return batch.pin_memory() if self.pin_memory else batch


def padded_batches(
    src: TokenIds, tgt: TokenIds, special: Special, *, kept: Ints, vocab_sizes: tuple[int, int], max_tokens: int
) -> BatchLoader:
    """Batches of the pairs `kept` of texts in memory, with one pair to a row: to go through once."""
    lengths = Lengths(np.diff(src.offsets) + 1, np.diff(tgt.offsets) + 1)
    longest = int(np.maximum(lengths.src, lengths.tgt)[kept].max())
    planner = Planner(lengths, kept, [(0, len(lengths.src), 1.0)], seed=0, max_tokens=max(max_tokens, longest))
    return BatchLoader(planner, src, tgt, special, vocab_sizes=vocab_sizes, workers=0, prefetch=1, pin_memory=False)
