"""Whether settings differ by more than luck, where each arm was trained several times: once with each of some seeds.

Luck is of two kinds: another seed gives another model, and another test set other lines. A paired test of two systems
knows only the second, and calls two trainings of one and the same configuration different. So both are estimated:

    variance of a mean over seeds = variance between seeds / seeds + variance of the arm's own taste for lines / lines

The score of each system is made a mean over lines by the jackknife: with n lines, line i has the pseudo-value
n * score - (n - 1) * score without i (Quenouille 1956; Efron 1982, "The Jackknife"), of BLEU as of any other metric.
With values y[arm, seed, line] this is the analysis of variance with arms fixed, seeds and lines at random. The scatter
of the systems' scores holds what one model does on one line already; it is taken out of the scatter between lines. And
the variance between seeds cannot be less than this part of it, though seeds whose scores tie by luck would say so.

The variance between seeds has few degrees of freedom, seeds - 1 from each arm. The arms share one estimate, as in
Dunnett's test (1955), except for an arm that scatters far more than the others, which keeps its own; Student's t with
the degrees of freedom of Satterthwaite (1946) accounts for how little is known of it. A bootstrap over three seeds does
not: it finds differences between like arms three times as often as it says.

Shapes: A arms, S seeds, G groups of lines.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytorch_dl.scoring.bootstrap import Interval
from pytorch_dl.scoring.randomisation import ROUNDING
from pytorch_dl.scoring.score import Floats, Score
from pytorch_dl.scoring.student import f_tail, t_bound, two_sided_p

GROUPS = 500  # of lines that the jackknife leaves out together, where there are more lines
OUTLYING = 0.1  # chance that one of several arms that scatter alike is taken for one that scatters more


class Estimate(NamedTuple):
    """A mean over seeds, or a difference of such means, with what is known of its luck."""

    value: float
    error: float
    """Its standard error, over seeds and lines."""
    freedom: float
    """Degrees of freedom of the error; where nothing scatters, of the lines."""

    @property
    def p_value(self) -> float:
        """How likely luck alone is to bring a value as far from 0; where nothing scatters, that all lines agree."""
        if self.error < ROUNDING:
            return 1.0 if abs(self.value) < ROUNDING else 0.5**self.freedom  # the sign test of all lines, both sides
        return two_sided_p(self.value / self.error, self.freedom)

    def interval(self, level: float = 0.05) -> Interval | None:
        """Where the value may lie, with the confidence 1 - level; None where nothing scatters, and nothing tells."""
        if self.error < ROUNDING:
            return None
        margin = t_bound(level, self.freedom) * self.error
        return Interval(self.value - margin, self.value + margin)


class SeedScores:
    """One metric's scores of arms that were each trained with the same number of seeds, two or more; same lines."""

    def __init__(self, scores: Sequence[Sequence[Score]]) -> None:
        assert len({len(arm) for arm in scores}) == 1 and len(scores[0]) > 1, "the same number of seeds, at least 2"
        self.values = np.array([[score.value for score in arm] for arm in scores])  # (A, S)
        self._lines = np.array([[pseudo_values(score) for score in arm] for arm in scores])  # (A, S, G)
        self._between_seeds = self.values.var(1, ddof=1)  # (A,)
        self._within = _interaction(self._lines)  # (A,)
        self._of_lines = self._within / self._lines.shape[2]  # (A,): what of it lies in a score, the mean of the lines
        self.outlying = _outlying(self._between_seeds, self._of_lines, seeds=self.values.shape[1])  # (A,)

    @property
    def is_defined(self) -> bool:
        """Whether the metric has a value for each system, and without any of the lines."""
        return bool(np.isfinite(self.values).all() and np.isfinite(self._lines).all())

    def mean(self, arm: int) -> Estimate:
        """The score of an arm, over its seeds."""
        return self.contrast(np.eye(len(self.values))[arm])

    def contrast(self, weights: Sequence[float] | Floats) -> Estimate:
        """The sum of the arms' means, each times its weight: 1 and -1 give a difference."""
        weights = np.asarray(weights, dtype=np.float64)
        seeds, groups = self._lines.shape[1:]
        squares = weights**2
        alone = np.eye(len(squares), dtype=bool)[self.outlying]
        parts = []
        for arms in (*alone, ~self.outlying):
            shared = _variance(self._between_seeds, self._of_lines, arms)
            parts.append((float(squares[arms].sum()) * shared / seeds, float(arms.sum()) * (seeds - 1.0)))
        if groups > 1:
            of_lines = weights @ self._lines.mean(1)  # (G,)
            noise = float(squares @ self._within) / seeds
            parts.append((max(0.0, float(of_lines.var(ddof=1)) - noise) / groups, groups - 1.0))
        variance = sum(part for part, _ in parts)
        error = math.sqrt(variance)
        doubt = sum(part**2 / freedom for part, freedom in parts)
        freedom = groups - 1.0 if error < ROUNDING else variance**2 / doubt
        return Estimate(float(weights @ self.values.mean(1)), error, freedom)


def pseudo_values(score: Score) -> Floats:
    """(G,): values whose mean is about the score, each of one line, or of one of GROUPS groups of lines."""
    groups = min(len(score.rows), GROUPS)
    if groups < 2:
        return np.array([score.value])
    members = np.arange(len(score.rows)) % groups
    sums = np.stack([np.bincount(members, column, minlength=groups) for column in score.rows.T], axis=1)  # (G, K)
    without = score.values(sums.sum(0) - sums)
    return groups * score.value - (groups - 1) * without


def _interaction(lines: Floats) -> Floats:
    """(A, S, G) -> (A,): variance of what one model does on one line, beyond its own mean and the line's."""
    seeds, groups = lines.shape[1:]
    if groups < 2:
        return np.zeros(len(lines))
    rest = lines - lines.mean(1, keepdims=True) - lines.mean(2, keepdims=True) + lines.mean((1, 2), keepdims=True)
    found: Floats = (rest**2).sum((1, 2)) / ((seeds - 1) * (groups - 1))
    return found


def _variance(between_seeds: Floats, of_lines: Floats, arms: NDArray[np.bool_]) -> float:
    """The variance between seeds of arms that share it; their mean has a floor: one for each would bias it."""
    return float(max(between_seeds[arms].mean(), of_lines[arms].mean()))


def _outlying(variances: Floats, of_lines: Floats, *, seeds: int) -> NDArray[np.bool_]:
    """Which arms scatter so much more than the others that these tell nothing of them; the widest is tried first."""
    outlying = np.zeros(len(variances), dtype=bool)
    for arm in np.argsort(-variances):
        others = ~outlying
        others[arm] = False
        if not others.any():
            break
        usual = _variance(variances, of_lines, others)
        freedom = float(others.sum() * (seeds - 1))
        if variances[arm] <= usual or (
            usual and f_tail(variances[arm] / usual, seeds - 1.0, freedom) >= OUTLYING / len(variances)
        ):
            break
        outlying[arm] = True
    return outlying
