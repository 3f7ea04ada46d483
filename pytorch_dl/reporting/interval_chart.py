"""Scores with their intervals, row by row, as SVG: a dot and a whisker for each run."""

from collections.abc import Sequence
from typing import NamedTuple

from pytorch_dl.reporting.axis import Axis, label, linear
from pytorch_dl.reporting.html import Html, tag
from pytorch_dl.reporting.line_chart import colour

WIDTH, TOP, BOTTOM, RIGHT = 420, 6, 24, 14
ROW, APART = 14, 11  # of a row's border, and between its runs
LETTER = 6.4  # width, about


class Estimate(NamedTuple):
    """A score with its interval, if it has one, of the run `colour`."""

    colour: int
    value: float
    low: float | None
    high: float | None


def interval_chart(title: str, unit: str, rows: Sequence[tuple[str, Sequence[Estimate]]]) -> Html | None:
    """A figure of the rows, each with its name; None where there is nothing to draw."""
    rows = [(name, estimates) for name, estimates in rows if estimates]
    ends = [end for _, some in rows for _, *numbers in some for end in numbers if end is not None]
    if not ends:
        return None
    axis = linear([*ends, *([0.0] if min(ends) < 0.6 * max(ends) else [])], count=5)
    left = min(170.0, 14 + LETTER * max(len(name) for name, _ in rows))
    parts: list[Html] = []
    y = float(TOP)
    for name, estimates in rows:
        height = ROW + APART * len(estimates)
        middle = y + height / 2
        parts.append(tag("text", {"x": f"{left - 8:.0f}", "y": f"{middle + 4:.1f}", "text-anchor": "end"}, name))
        for place, estimate in enumerate(estimates):
            parts.append(_drawn(estimate, y + ROW / 2 + APART * (place + 0.5), axis, left))
        y += height
    grid = [_tick(axis, tick, left, y) for tick in axis.ticks]
    shape = {"viewBox": f"0 0 {WIDTH} {y + BOTTOM:.0f}", "class": "chart", "role": "img", "aria-label": title}
    caption = tag("figcaption", {}, tag("b", {}, title), tag("span", {"class": "soft"}, f" {unit}"))
    return tag("figure", {}, caption, tag("svg", shape, tag("g", {"class": "axes"}, grid), parts))


def _drawn(estimate: Estimate, y: float, axis: Axis, left: float) -> Html:
    x = _x(axis, estimate.value, left)
    told = f"{estimate.value:.2f}"
    whisker = None
    if estimate.low is not None and estimate.high is not None:
        told += f" ({estimate.low:.2f} to {estimate.high:.2f})"
        x1, x2 = _x(axis, estimate.low, left), _x(axis, estimate.high, left)
        whisker = tag("line", {"x1": x1, "x2": x2, "y1": f"{y:.1f}", "y2": f"{y:.1f}"})
    dot = tag("circle", {"cx": x, "cy": f"{y:.1f}", "r": 3.6})
    return tag("g", {"class": f"estimate {colour(estimate.colour)}"}, tag("title", {}, told), whisker, dot)


def _tick(axis: Axis, tick: float, left: float, bottom: float) -> Html:
    x = _x(axis, tick, left)
    line = tag("line", {"class": "grid", "x1": x, "x2": x, "y1": TOP, "y2": f"{bottom:.0f}"})
    anchor = "end" if float(x) > WIDTH - 16 else "middle"
    return tag("g", {}, line, tag("text", {"x": x, "y": f"{bottom + 16:.0f}", "text-anchor": anchor}, label(tick)))


def _x(axis: Axis, value: float, left: float) -> str:
    return f"{left + axis.place(value) * (WIDTH - RIGHT - left):.1f}"
