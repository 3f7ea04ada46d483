"""Several pairs to a row: rows of one fixed width on each side, filled nearly to the brim.

A row is begun with pairs in random order; when less than the longest pair fits, the two lengths that fill it best are
looked up, until nothing fits.
"""

import math
from typing import NamedTuple, Self

import numpy as np

from pytorch_dl.dataset.bucketing import Ints

POOL = 1 << 16  # pairs that are packed together
MIN_WIDTH = 64  # attention over narrower rows costs less; narrower still and they fill badly
WIDEST_ROW = 256  # beyond it, attention over a row costs more than padding would
MULTIPLES = (16, 8, 4, 2)  # of tokens: the largest is the fastest, on a CPU by 3 % of a step
ABSENT = -(1 << 40)  # the worth of lengths of which no pair is left, whatever stands beside them
MORE_ROOM = 0.02  # of a row, that a multiple may cost


class Widths(NamedTuple):
    """Tokens of a row on each side."""

    src: int
    tgt: int

    @classmethod
    def fitting(cls, src: Ints, tgt: Ints, max_tokens: int) -> Self:
        """Widths that hold the longest pair, in the proportion of the two sides, so that both fill up together."""
        width = min(_multiple(max(MIN_WIDTH, int(src.max()), int(tgt.max())), MULTIPLES[0]), max_tokens)
        totals = int(src.sum()), int(tgt.sum())
        shares = [width * total / max(totals) for total in totals]

        def wide(share: float, longest: int) -> int:
            widths = (_multiple(share, multiple) for multiple in MULTIPLES)
            best = next((w for w in widths if w - share <= MORE_ROOM * sum(shares)), math.ceil(share))
            return min(width, max(best, longest))

        return cls(*(wide(share, int(side.max())) for share, side in zip(shares, (src, tgt), strict=True)))


def _multiple(number: float, of: int) -> int:
    """The next multiple."""
    return math.ceil(number / of) * of


def pack_rows(src: Ints, tgt: Ints, widths: Widths) -> list[Ints]:
    """Pack pairs of these lengths, given in random order, into rows; returns the indices of the pairs of each row."""
    rows: list[Ints] = []
    for start in range(0, len(src), POOL):
        pool = slice(start, start + POOL)
        rows += [np.array(row) + start for row in _pack_pool(src[pool], tgt[pool], widths)]
    return rows


def _pack_pool(src: Ints, tgt: Ints, widths: Widths) -> list[list[int]]:
    stock = _Stock(src, tgt, widths)
    longest = Widths(int(src.max()), int(tgt.max()))
    rows: list[list[int]] = []
    while (pair := stock.next_random()) is not None:
        row, free = [], widths
        while pair is not None:
            row.append(pair)
            free = Widths(free.src - int(src[pair]), free.tgt - int(tgt[pair]))
            roomy = free.src >= longest.src and free.tgt >= longest.tgt
            pair = stock.next_random() if roomy else stock.best_fit(free)
        rows.append(row)
    return rows


class _Stock:
    """The pairs not yet packed, by their two lengths."""

    def __init__(self, src: Ints, tgt: Ints, widths: Widths) -> None:
        self.lengths = list(zip(src.tolist(), tgt.tolist(), strict=True))
        self.order = iter(self.lengths)
        self.left: dict[tuple[int, int], list[int]] = {}
        for pair, lengths in enumerate(self.lengths):
            self.left.setdefault(lengths, []).append(pair)
        size = np.add.outer(np.arange(src.max() + 1), np.arange(tgt.max() + 1))
        present = np.zeros(size.shape, dtype=bool)
        present[src, tgt] = True
        first = 2 * int(size[-1, -1])  # more than any first pair's own size
        self.alone = np.where(present, (first + 1) * size, ABSENT)  # how much a pair fills, by its lengths
        self.single = np.zeros((widths.src + 1, widths.tgt + 1), dtype=np.int64)  # the same for a second pair
        self.single[: size.shape[0], : size.shape[1]] = first * size * present
        self.fill = _running_max(self.single)  # the best second pair, by the room that is left
        self.found: dict[Widths, tuple[int, int] | None] = {}  # best fits, until some lengths are used up

    def next_random(self) -> int | None:
        """A pair of the next lengths in the given order of which one is left."""
        for lengths in self.order:
            if lengths in self.left:
                return self._take(lengths)
        return None

    def best_fit(self, free: Widths) -> int | None:
        """The longer of the two pairs that together leave the least room, or the one where a second does not fit."""
        if free not in self.found:
            self.found[free] = self._best(free)
        best = self.found[free]
        return self._take(best) if best else None

    def _best(self, free: Widths) -> tuple[int, int] | None:
        src, tgt = min(free.src + 1, self.alone.shape[0]), min(free.tgt + 1, self.alone.shape[1])
        beside = self.fill[free.src - src + 1 : free.src + 1, free.tgt - tgt + 1 : free.tgt + 1][::-1, ::-1]
        total = self.alone[:src, :tgt] + beside
        best = divmod(int(total.argmax()), tgt)
        return best if total[best] > 0 else None

    def _take(self, lengths: tuple[int, int]) -> int:
        pairs = self.left[lengths]
        pair = pairs.pop()
        if not pairs:
            del self.left[lengths]
            self._forget(*lengths)
        return pair

    def _forget(self, src: int, tgt: int) -> None:
        """Of these lengths none is left: what they were the best for is looked up anew, and no more than that."""
        self.found = {}
        worth, self.single[src, tgt], self.alone[src, tgt] = self.single[src, tgt], 0, ABSENT
        rows = int(np.searchsorted(self.fill[src:, tgt], worth, side="right"))
        columns = int(np.searchsorted(self.fill[src, tgt:], worth, side="right"))
        if not rows:
            return
        part = slice(src, src + rows), slice(tgt, tgt + columns)
        best = self.single[part].copy()
        if src:
            best[0] = np.maximum(best[0], self.fill[src - 1, part[1]])
        if tgt:
            best[:, 0] = np.maximum(best[:, 0], self.fill[part[0], tgt - 1])
        self.fill[part] = _running_max(best)


def _running_max(table: Ints) -> Ints:
    """The largest number above and left of each place, itself included."""
    found: Ints = np.maximum.accumulate(np.maximum.accumulate(table, axis=0), axis=1)
    return found
