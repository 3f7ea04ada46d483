"""How far a score would move with another test set of the same kind: its interval by the bootstrap.

Lines are drawn with replacement, as often as there are lines, and the score of what was drawn is taken; the middle 95 %
of many such values are the interval (Koehn 2004, "Statistical significance tests for machine translation evaluation").
Draws and bounds are those of sacrebleu with the same seed.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pytorch_dl.scoring.score import Floats, Score

RESAMPLES = 1000
SEED = 12345  # sacrebleu's
OUTSIDE = 40  # one value in 40 lies outside at each end: 95 % within
DRAWS = 1 << 22  # at a time, to bound the memory


class Interval(NamedTuple):
    """From where to where a score may lie, with 95 % confidence."""

    low: float
    high: float

    @property
    def margin(self) -> float:
        """Half its width."""
        return (self.high - self.low) / 2


def intervals(scores: Sequence[Score], *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Interval | None]:
    """The interval of each score of the same lines, by the same resamples; None for a single line."""
    lines = len(scores[0].rows) if scores else 0
    if lines < 2:
        return [None] * len(scores)
    sums: list[list[Floats]] = [[] for _ in scores]
    for counts in _counts(lines, resamples, seed):
        for score, found in zip(scores, sums, strict=True):
            found.append(counts @ score.rows)
    return [_middle(score.values(np.concatenate(found))) for score, found in zip(scores, sums, strict=True)]


def _counts(lines: int, resamples: int, seed: int) -> Iterator[Floats]:
    """(R, N) how often each line is drawn in each resample, some resamples at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, DRAWS // lines)
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = rng.choice(lines, size=(size, lines), replace=True) + lines * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * lines).reshape(size, lines).astype(np.float64)


def _middle(values: Floats) -> Interval | None:
    defined = np.sort(values[~np.isnan(values)])
    if not len(defined):
        return None
    outside = len(defined) // OUTSIDE
    return Interval(float(defined[outside]), float(defined[len(defined) - outside - 1]))
