"""A score over some of its lines is the score of those lines."""

import math

import numpy as np
import pytest

from pytorch_dl.scoring.score import Score


def ratio(sums: list[float]) -> float:
    return sums[0] / sums[1] if sums[1] else math.nan


SCORE = Score("ratio", "unit:line", np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]), ratio)


def test_value_is_of_the_sums_not_a_mean_of_lines():
    assert SCORE.value == 4 / 6


@pytest.mark.parametrize(("lines", "value"), [([0], 0.5), ([1, 1], 0.75), ([True, False, True], 0.5)])
def test_some_lines(lines, value):
    part = SCORE.of(np.array(lines))
    assert (part.name, part.signature, part.value) == ("ratio", "unit:line", value)
    assert SCORE.value == 4 / 6


def test_many_choices_at_once():
    values = SCORE.values(np.array([[1.0, 2.0], [0.0, 0.0]]))
    assert values[0] == 0.5 and math.isnan(values[1])
