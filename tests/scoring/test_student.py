"""Tails against the printed tables of Student and Fisher, and against draws."""

import numpy as np
import pytest

from pytorch_dl.scoring.student import f_tail, t_bound, two_sided_p

TABLE = {
    (1, 0.05): 12.706,
    (2, 0.05): 4.303,
    (4, 0.05): 2.776,
    (4, 0.01): 4.604,
    (12, 0.01): 3.055,
    (1000, 0.05): 1.962,
}


@pytest.mark.parametrize(("freedom", "p"), TABLE)
def test_bounds_are_those_of_the_table(freedom, p):
    t = TABLE[freedom, p]
    assert t_bound(p, freedom) == pytest.approx(t, abs=6e-4)
    assert two_sided_p(t, freedom) == two_sided_p(-t, freedom) == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize(
    ("ratio", "freedom", "other", "p"),
    [(19.0, 2, 2, 0.05), (4.103, 2, 10, 0.05), (7.559, 2, 10, 0.01), (6.608, 1, 5, 0.05), (161.4, 1, 1, 0.05)],
)
def test_ratios_of_variances(ratio, freedom, other, p):
    assert f_tail(ratio, freedom, other) == pytest.approx(p, rel=2e-3)


def test_nothing_is_certain_at_zero_and_little_is_left_far_out():
    assert two_sided_p(0.0, 3.0) == 1.0
    assert 0 < two_sided_p(60.0, 4.0) < 1e-6


def test_degrees_of_freedom_need_not_be_whole():
    draws = np.random.default_rng(1)
    t = draws.normal(size=200_000) / np.sqrt(draws.chisquare(2.5, size=200_000) / 2.5)
    assert two_sided_p(3.0, 2.5) == pytest.approx((np.abs(t) > 3).mean(), rel=0.03)
