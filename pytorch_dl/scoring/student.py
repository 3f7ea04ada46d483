"""Tails of the distributions of Student and Fisher, by quadrature: numpy has none."""

import functools
import math

import numpy as np
from numpy.polynomial.legendre import leggauss

from pytorch_dl.scoring.score import Floats

NODES = 200
MOST_FREEDOM = 1000.0  # beyond it nothing changes that anybody would see


def two_sided_p(t: float, freedom: float) -> float:
    """How likely a t of this many degrees of freedom (1 or more) is to lie as far from 0, on either side."""
    freedom = min(freedom, MOST_FREEDOM)
    return _tail(math.atan(abs(t) / math.sqrt(freedom)), 0.5, freedom / 2)


@functools.lru_cache
def t_bound(p: float, freedom: float) -> float:
    """The t that is passed on either side with probability `p`."""
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > p:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, freedom) > p else (low, middle)
    return (low + high) / 2


def f_tail(ratio: float, freedom: float, other: float) -> float:
    """How likely the ratio of two estimates of one variance, with these degrees of freedom, is to be so large."""
    return _tail(math.atan(math.sqrt(ratio * freedom / other)), freedom / 2, min(other, MOST_FREEDOM) / 2)


def _tail(angle: float, a: float, b: float) -> float:
    """The regularised incomplete beta function 1 - I(a, b) at sin(angle) ** 2, where a and b are at least 1/2."""
    return _integral(angle, math.pi / 2, a, b) / _integral(0.0, math.pi / 2, a, b)


def _integral(start: float, stop: float, a: float, b: float) -> float:
    nodes, weights = _nodes()
    angles = start + (stop - start) * (nodes + 1) / 2
    heights = np.sin(angles) ** (2 * a - 1) * np.cos(angles) ** (2 * b - 1)
    return float(heights @ weights) * (stop - start) / 2


@functools.cache
def _nodes() -> tuple[Floats, Floats]:
    """Places between -1 and 1 and their weights, which take long to find (Gauss and Legendre)."""
    places, weights = leggauss(NODES)
    return places, weights
