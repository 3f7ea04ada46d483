"""Several pairs to a row: rows of one fixed width on each side, filled nearly to the brim.

A row is begun with pairs in random order; when less than the longest pair fits, the best fitting length is looked up
until nothing fits.
"""

from typing import NamedTuple, Self

import numpy as np

from pytorch_dl.dataset.bucketing import Ints

POOL = 1 << 16  # pairs that are packed together
MIN_WIDTH = 128
WIDEST_ROW = 256  # beyond it, attention over a row costs more than padding would
MULTIPLE = 4


class Widths(NamedTuple):
    """Tokens of a row on each side."""

    src: int
    tgt: int

    @classmethod
    def fitting(cls, src: Ints, tgt: Ints, max_tokens: int) -> Self:
        """Widths that hold the longest pair, in the proportion of the two sides, so that both fill up together."""
        longest = int(max(src.max(), tgt.max()))
        width = min(max(MIN_WIDTH, longest), max_tokens)
        total_src, total_tgt = int(src.sum()), int(tgt.sum())
        larger = max(total_src, total_tgt)

        def narrowed(total: int, side: Ints) -> int:
            share = -(-width * total // (larger * MULTIPLE)) * MULTIPLE
            return min(width, max(share, int(side.max())))

        return cls(narrowed(total_src, src), narrowed(total_tgt, tgt))


def pack_rows(src: Ints, tgt: Ints, widths: Widths) -> list[Ints]:
    """Pack pairs of these lengths, given in random order, into rows; returns the indices of the pairs of each row."""
    rows: list[Ints] = []
    for start in range(0, len(src), POOL):
        pool = slice(start, start + POOL)
        rows += [np.array(row) + start for row in _pack_pool(src[pool], tgt[pool], widths)]
    return rows


def _pack_pool(src: Ints, tgt: Ints, widths: Widths) -> list[list[int]]:
    stock = _Stock(src, tgt)
    longest = Widths(int(src.max()), int(tgt.max()))
    rows: list[list[int]] = []
    while (pair := stock.next_random()) is not None:
        row, free = [], widths
        while pair is not None:
            row.append(pair)
            free = Widths(free.src - int(src[pair]), free.tgt - int(tgt[pair]))
            roomy = free.src >= longest.src and free.tgt >= longest.tgt
            pair = stock.next_random() if roomy else stock.best_fit(free, widths)
        rows.append(row)
    return rows


class _Stock:
    """The pairs not yet packed, by their two lengths."""

    def __init__(self, src: Ints, tgt: Ints) -> None:
        self.lengths = list(zip(src.tolist(), tgt.tolist(), strict=True))
        self.order = iter(self.lengths)
        self.left: dict[tuple[int, int], list[int]] = {}
        for pair, lengths in enumerate(self.lengths):
            self.left.setdefault(lengths, []).append(pair)
        self.present = np.zeros((int(src.max()) + 1, int(tgt.max()) + 1), dtype=bool)
        self.present[src, tgt] = True

    def next_random(self) -> int | None:
        """A pair of the next lengths in the given order of which one is left."""
        for lengths in self.order:
            if lengths in self.left:
                return self._take(lengths)
        return None

    def best_fit(self, free: Widths, widths: Widths) -> int | None:
        """The pair that leaves the least room, and keeps the room of both sides in proportion."""
        src, tgt = np.nonzero(self.present[: free.src + 1, : free.tgt + 1])
        if not len(src):
            return None
        imbalance = np.abs((free.src - src) / widths.src - (free.tgt - tgt) / widths.tgt) * widths.tgt
        best = int(np.argmax(src + tgt - 0.5 * imbalance))
        return self._take((int(src[best]), int(tgt[best])))

    def _take(self, lengths: tuple[int, int]) -> int:
        pairs = self.left[lengths]
        pair = pairs.pop()
        if not pairs:
            del self.left[lengths]
            self.present[lengths] = False
        return pair
