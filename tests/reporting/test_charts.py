"""Where numbers lie in charts, and that what is left out does not show."""

import re
from itertools import pairwise

import numpy as np
import pytest

from pytorch_dl.generation.attention_map import AttentionMap
from pytorch_dl.reporting.axis import Axis, figure, label, linear, logarithmic
from pytorch_dl.reporting.heat_map import heat_map
from pytorch_dl.reporting.histogram import Pile, histogram
from pytorch_dl.reporting.interval_chart import Estimate, interval_chart
from pytorch_dl.reporting.line_chart import Curve, line_chart, thin

rng = np.random.default_rng(3)


@pytest.mark.parametrize("low", [0.0, -3.2, 1e-6, 0.997, 5e8])
@pytest.mark.parametrize("span", [0.0, 1e-7, 0.4, 12.0, 3e9])
@pytest.mark.parametrize("from_zero", [False, True])
def test_an_axis_holds_its_values_between_round_marks(low, span, from_zero):
    values = [low, low + span]
    axis = linear(values, from_zero=from_zero)
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in values)
    assert 2 <= len(axis.ticks) <= 12
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == 1
    assert not from_zero or axis.low <= 0 <= axis.high
    steps = np.diff(axis.ticks)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:e}"[0] in "125"


@pytest.mark.parametrize(("low", "high"), [(2.0, 3.0), (7.0, 7.0), (1.0, 30.0), (3.0, 4e4), (1e-3, 1e12)])
def test_a_logarithmic_axis(low, high):
    axis = logarithmic([low, high])
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == pytest.approx(1)
    assert len(axis.ticks) <= 6 and all(axis.low * 0.99 <= tick <= axis.high * 1.01 for tick in axis.ticks)
    middle = (axis.low * axis.high) ** 0.5
    assert axis.place(middle) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "short", "long"),
    [
        (0.0, "0", "0"),
        (1500.0, "1.5k", "1,500"),
        (2e6, "2M", "2,000,000"),
        (0.25, "0.25", "0.25"),
        (2e-4, "0.0002", "0.0002"),
        (2e-5, "2.0e-5", "2e-05"),
        (1234.56, "1.235k", "1,235"),
        (31.25678, "31.26", "31.26"),
        (2e9, "2G", "2e+09"),
        (1.01423e304, "1e+304", "1.014e+304"),
    ],
)
def test_numbers_in_short(value, short, long):
    assert (label(value), figure(value)) == (short, long)


def test_thinning_keeps_ends_and_extremes():
    points = [(float(step), float(value)) for step, value in enumerate(rng.normal(size=10_000))]
    points[4321] = (4321.0, 99.0)
    points[765] = (765.0, -99.0)
    kept = thin(points, 400)
    assert len(kept) <= 402
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert points[4321] in kept and points[765] in kept
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert set(kept) <= set(points)
    assert thin(points[:400], 400) == points[:400]


def test_a_line_chart_puts_points_where_they_belong():
    chart = line_chart("Loss", "nats", [Curve("mine", [(0.0, 0.0), (50.0, 5.0), (100.0, 10.0)], best=50.0)])
    assert 'd="M46.0 196.0L228.0 103.0L410.0 10.0"' in chart
    assert '<circle class="ring" cx="228.0" cy="103.0" r="6"/>' in chart
    assert 'data-steps="0 50 100" data-values="0 5 10"' in chart
    assert '<span class="value">10</span>' in chart


def test_a_line_chart_of_nothing():
    assert line_chart("Loss", "", []) is None
    assert line_chart("Loss", "", [Curve("mine", [])]) is None
    assert "<circle" in line_chart("Loss", "", [Curve("mine", [(0.0, 1.0)])])  # one point is no line


def test_an_interval_chart():
    chart = interval_chart(
        "BLEU", "", [("short", [Estimate(0, 50.0, 0.0, 100.0), Estimate(1, 100.0, None, None)]), ("x", [])]
    )
    (left, right) = map(float, re.search(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2', chart).groups())
    (middle,) = re.findall(r'c0"><title>50.00 \(0.00 to 100.00\)</title>.*?<circle cx="([\d.]+)"', chart)
    assert float(middle) == pytest.approx((left + right) / 2, abs=0.1)
    assert f'<title>100.00</title><circle cx="{right}"' in chart
    assert ">x<" not in chart
    assert interval_chart("BLEU", "", [("x", [])]) is None


def test_a_histogram_counts_what_is_right_of_it():
    numbers = np.array([*([3] * 600), *([5] * 400), 1000])
    chart = histogram("Length", "tokens", [Pile("text", numbers)])
    assert "median 3, up to 1k (1 right of the chart)" in chart
    heights = [float(y) for y in re.findall(r"V([\d.]+)H", chart)]
    bottom, (first, second, third) = 196.0, heights[:3]
    assert second == bottom and (bottom - first) / (bottom - third) == pytest.approx(1.5, abs=0.02)
    assert histogram("Length", "", [Pile("none", np.array([]))]) is None


@pytest.mark.parametrize("numbers", [[4], [0, 0], [1, 2], list(range(100))])
def test_a_histogram_holds_all_of_what_lies_near(numbers):
    chart = histogram("Length", "", [Pile("text", np.array(numbers))])
    assert "right of the chart" not in chart


@pytest.mark.parametrize(
    ("numbers", "ticks"), [([10] * 500, [10]), ([10, 11], [10, 11]), ([3], [3]), (list(range(12)), [0, 5, 10])]
)
def test_marks_of_whole_numbers_are_whole_and_lie_under_the_middle_of_their_bars(numbers, ticks):
    chart = histogram("Length", "", [Pile("text", np.array(numbers))])
    across = {float(mark): float(x) for x, mark in re.findall(r'<text x="([\d.]+)" y="213"[^>]*>([^<]+)<', chart)}
    assert list(across) == ticks
    up = re.findall(r'text-anchor="end">([^<]+)<', chart)
    assert len(up) >= 2 and all(float(mark).is_integer() for mark in up)
    ends = [46.0, *map(float, re.findall(r"H([\d.]+)", chart))]
    middles = dict(enumerate((sum(bar) / 2 for bar in pairwise(ends)), min(numbers)))
    assert all(x == pytest.approx(middles[mark], abs=0.1) for mark, x in across.items())


def test_marks_of_steps_are_whole():
    chart = line_chart("Loss", "", [Curve("mine", [(1.0, 0.25), (2.0, 0.5)])])
    assert re.findall(r'y="213"[^>]*>([^<]+)<', chart) == ["0", "1", "2"]
    assert "0.3" in re.findall(r'text-anchor="end">([^<]+)<', chart), "what is measured may have others"


def test_a_heat_map_draws_what_can_be_seen():
    found = AttentionMap(["a", "<b>", "c" * 30], ["x", "y"], [[1.0, 0.0, 0.01], [0.25, 0.5, 0.25]])
    chart = heat_map(found, run="mine")
    assert re.findall(r'opacity="([\d.]+)"', chart) == ["1.00", "0.25", "0.50", "0.25"]
    assert "y ← &lt;b&gt;: 50%" in chart and f"{'c' * 13}…<" in chart


def test_places_of_an_axis_are_linear():
    assert Axis(10.0, 20.0, []).place(15.0) == 0.5
