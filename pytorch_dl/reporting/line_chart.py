"""A chart of curves over the steps of training, as SVG; its script reads the numbers from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytorch_dl.reporting.axis import Axis, figure, label, linear, logarithmic, whole
from pytorch_dl.reporting.html import Html, joined, tag

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
POINTS = 2400  # of all curves of a chart
FEWEST = 60  # of a curve
Points = Sequence[tuple[float, float]]
Write = Callable[[float], str]


@dataclass(frozen=True)
class Curve:
    """One curve: `colour` is the number of its run, `faint` that of the raw data behind a clearer one."""

    name: str
    points: Points
    colour: int = 0
    faint: bool = False
    marked: bool = False
    """Whether each point has a dot: there are few."""
    best: float | None = None
    """The step whose point has a ring."""


def line_chart(
    title: str, unit: str, curves: Sequence[Curve], *, log: bool = False, from_zero: bool = False
) -> Html | None:
    """A figure with its legend, in which the last values stand; None where no curve has a point."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    values = [value for curve in curves for _, value in curve.points]
    log = log and min(values) > 0
    across = linear([0.0, *(step for curve in curves for step, _ in curve.points)], count=5)
    across = whole(Axis(0.0, max(step for curve in curves for step, _ in curve.points) or 1.0, across.ticks))
    up = logarithmic(values) if log else linear(values, from_zero=from_zero)
    most = max(FEWEST, POINTS // len(curves))
    thinned = [thin(curve.points, most) for curve in curves]
    drawn = [_drawn(curve, points, across, up) for curve, points in zip(curves, thinned, strict=True)]
    svg = tag(
        "svg",
        {
            "viewBox": f"0 0 {WIDTH} {HEIGHT}",
            "class": "chart lines",
            "role": "img",
            "tabindex": "0",
            "aria-label": f"{title} by step",
            "data-last": f"{across.high:.10g}",
            "data-span": f"{LEFT} {WIDTH - RIGHT}",
        },
        grid(across, up),
        drawn,
        tag("line", {"class": "rule", "x1": 0, "x2": 0, "y1": TOP, "y2": HEIGHT - BOTTOM}),
    )
    legend = tag("ul", {"class": "legend"}, (_entry(curve) for curve in curves))
    return tag(
        "figure",
        {},
        tag("figcaption", {}, tag("b", {}, title), tag("span", {"class": "soft"}, f" {unit}")),
        legend,
        svg,
    )


def thin(points: Points, most: int) -> Points:
    """At most about `most` of the points: of each stretch the lowest and the highest, and the two ends."""
    if len(points) <= most:
        return points
    stretches = max(1, (most - 2) // 2)
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(stretches):
        part = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])} if part else set()
        kept += sorted(ends)
    return [*kept, points[-1]]


def grid(across: Axis, up: Axis, *, write_across: Write = label, write_up: Write = label) -> Html:
    """The lines behind a chart and the numbers beside it."""
    parts = []
    for tick in up.ticks:
        y = y_of(up, tick)
        parts.append(tag("line", {"class": "grid", "x1": LEFT, "x2": WIDTH - RIGHT, "y1": y, "y2": y}))
        parts.append(tag("text", {"x": LEFT - 6, "y": f"{float(y) + 4:.1f}", "text-anchor": "end"}, write_up(tick)))
    for tick in across.ticks:
        if tick <= across.high * 1.0001:
            x = x_of(across, tick)
            anchor = "end" if float(x) > WIDTH - RIGHT - 14 else "middle"
            parts.append(tag("text", {"x": x, "y": HEIGHT - 7, "text-anchor": anchor}, write_across(tick)))
    return tag("g", {"class": "axes"}, parts)


def x_of(axis: Axis, value: float) -> str:
    """Where a value lies across."""
    return f"{LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT):.1f}"


def y_of(axis: Axis, value: float) -> str:
    """Where a value lies up."""
    return f"{HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM):.1f}"


def _drawn(curve: Curve, points: Points, across: Axis, up: Axis) -> Html:
    places = [(x_of(across, step), y_of(up, value)) for step, value in points]
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    dots: list[Html] = []
    if (curve.marked and len(points) <= FEWEST) or len(points) == 1:
        dots = [tag("circle", {"cx": x, "cy": y, "r": 2.6}) for x, y in places]
    for (step, _), (x, y) in zip(points, places, strict=True):
        if step == curve.best:
            dots.append(tag("circle", {"class": "ring", "cx": x, "cy": y, "r": 6}))
    data = {
        "data-steps": " ".join(f"{step:.10g}" for step, _ in points),
        "data-values": " ".join(figure(value) for _, value in points),
    }
    shown = f"curve {colour(curve.colour)}{' faint' if curve.faint else ''}"
    return tag("g", {"class": shown, **data}, tag("path", {"d": path}), dots)


def names(given: Sequence[str]) -> Html:
    """Which colour is whose, above charts that do not say it themselves."""
    entries = (tag("li", {}, tag("span", {"class": f"key {colour(place)}"}), name) for place, name in enumerate(given))
    return tag("ul", {"class": "legend"}, entries)


def _entry(curve: Curve) -> Html:
    shown = f"key {colour(curve.colour)}{' faint' if curve.faint else ''}"
    value = tag("span", {"class": "value"}, figure(curve.points[-1][1]))
    return tag("li", {}, tag("span", {"class": shown}), joined(curve.name, " ") if curve.name else None, value)


def colour(run: int) -> str:
    """The class of a run's colour; after eight the same ones come again, dashed."""
    return f"c{run % 8}{' dashed' if run >= 8 else ''}"
