"""Whether two systems differ by more than luck: the paired approximate randomisation test.

If the systems were alike, it would not matter which of the two wrote which of a line's two translations. So they are
swapped, line by line at random, and it is counted how often the two piles differ at least as much as the systems do
(Riezler and Maxwell 2005, "On some pitfalls in automatic evaluation and significance testing for MT").

Shapes: N lines, D lines that differ, K statistics of a line, R trials.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pytorch_dl.scoring.score import Score

TRIALS = 10_000
SEED = 12345
DRAWS = 1 << 22  # at a time, to bound the memory
ROUNDING = 1e-9  # scores nearer than this are equal: sums of other orders

Swaps = NDArray[np.bool_]


def p_value(first: Score, second: Score, *, trials: int = TRIALS, seed: int = SEED) -> float:
    """How likely two systems that are alike are to differ as much as these two, either way; lines are paired.

    Swaps that make the same difference as there is count as well. Leaving them out, as sacrebleu's test does, is the
    fault that finds differences between like systems too often: metrics that count lines or edits tie all the time.
    Where there are no more than `trials` ways to swap, each is tried once, and the value is exact.
    """
    assert len(first.rows) == len(second.rows) and first.name == second.name
    change = first.rows - second.rows  # (N, K)
    differing = change.any(1)
    ways = 2 ** int(differing.sum())
    exact = ways <= trials
    if exact:  # of lines that do not differ, swapping changes nothing
        change, swaps = change[differing], _all_swaps(int(differing.sum()))
    else:
        swaps = _random_swaps(len(change), trials, seed)
    observed = abs(first.value - second.value) - ROUNDING
    extreme, total = 0, first.rows.sum(0) + second.rows.sum(0)
    for swap in swaps:
        pile = second.rows.sum(0) + swap @ change  # (R, K)
        extreme += int((np.abs(first.values(pile) - first.values(total - pile)) >= observed).sum())
    return extreme / ways if exact else (extreme + 1) / (trials + 1)  # what there is, is one of the ways


def _all_swaps(lines: int) -> Iterator[Swaps]:
    """(2 ** D, D): every choice of lines."""
    yield (np.arange(2**lines)[:, None] >> np.arange(lines) & 1).astype(bool)


def _random_swaps(lines: int, trials: int, seed: int) -> Iterator[Swaps]:
    """(R, N): choices by a fair coin for each line; the coins are sacrebleu's for the same seed."""
    rng = np.random.default_rng(seed)
    at_once = max(32, DRAWS // lines // 32 * 32)  # the generator makes 32 bits at a time
    for start in range(0, trials, at_once):
        yield rng.integers(2, size=(min(at_once, trials - start), lines), dtype=bool)
