"""A metric's value over lines, with what each line adds to it.

All metrics here are functions of sums over lines: counts of n-grams, edits, tokens. A score that keeps the summands
can be had again for any choice of lines at the cost of a sum: for resamples, for two systems mixed, for long sentences.

Shapes: N lines, K statistics of a line, R choices of lines.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Score:
    """A metric's value; in percent, 0 to 100 except for error rates, which may exceed it, and perplexity."""

    name: str
    signature: str
    """All that must be equal for two values to be comparable."""
    rows: Floats
    """(N, K): what each line adds."""
    formula: Callable[[list[float]], float]
    """The value from the K sums; nan where they leave it undefined, as an error rate over no token."""
    lower_is_better: bool = False

    @cached_property
    def value(self) -> float:
        """The value over all lines."""
        return self.formula(self.rows.sum(0).tolist())

    def of(self, lines: NDArray[Any]) -> Self:
        """The same metric over some of the lines, given by their numbers or as a mask."""
        return replace(self, rows=self.rows[lines])

    def values(self, sums: Floats) -> Floats:
        """(R, K) sums -> (R,) values."""
        return np.array([self.formula(row) for row in sums.tolist()])
