"""Do two sides belong together? Told from the lengths of their lines, which go together in translations.

Lengths are numbers of characters or bytes, one array per side.
"""

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int32]
BLOCK = 1000  # pairs; chance alone gives a correlation of 0 +- 0.03
MISALIGNED = 0.1  # correlation under which lengths do not go together
_MAX_GAPS = 8


def length_correlation(src: Lengths, tgt: Lengths) -> float | None:
    """Correlation of the logarithms of the lengths; None when one side hardly varies, so that it would say nothing."""
    x, y = np.log1p(src), np.log1p(tgt)
    if len(x) < 2 or min(x.std(), y.std()) < 0.1:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def misaligned_blocks(src: Lengths, tgt: Lengths) -> list[int]:
    """Starts of the blocks of BLOCK pairs whose lengths do not go together although those of most blocks do."""
    starts = range(0, len(src) - BLOCK + 1, BLOCK)
    found = ((start, length_correlation(src[start : start + BLOCK], tgt[start : start + BLOCK])) for start in starts)
    blocks = [(start, correlation) for start, correlation in found if correlation is not None]
    if not blocks or np.median([correlation for _, correlation in blocks]) < 4 * MISALIGNED:
        return []
    return [start for start, correlation in blocks if correlation < MISALIGNED]


def first_gap(short: Lengths, long: Lengths) -> int | None:
    """Index in `short` before which lines seem to be missing; its length when they are at the end; None when unclear.

    The lines of `long` that best pair with those of `short` in order are found by dynamic programming over how many
    were left out so far: one more at each gap, or all at one gap when there are many.
    """
    missing, size = len(long) - len(short), len(short)
    assert missing > 0
    x, y = np.log1p(short), np.log1p(long)
    x, y = x - x.mean(), y - y.mean()
    left_out = list(range(1, missing + 1)) if missing <= _MAX_GAPS else [missing]
    best = _running_cost(x, y[:size])  # best[k]: cost of the first k pairs with as many lines left out as now
    first = np.arange(size + 1)  # first[k]: where the first gap of that pairing is
    for count in left_out:
        cost = _running_cost(x, y[count : count + size])
        saved = best - cost
        lowest = np.minimum.accumulate(saved)
        first = first[np.maximum.accumulate(np.where(saved == lowest, np.arange(size + 1), 0))]
        best = cost + lowest
    by_chance = np.abs(x - np.roll(y[:size], size // 2)).sum()
    return int(first[size]) if size >= 2 and best[size] < 0.75 * by_chance else None


def _running_cost(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(np.abs(x - y))))
