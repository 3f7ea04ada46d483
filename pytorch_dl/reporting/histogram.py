"""How often lengths or scores occur, as SVG."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pytorch_dl.reporting.axis import Axis, label, linear, whole
from pytorch_dl.reporting.html import Html, joined, tag
from pytorch_dl.reporting.line_chart import colour, grid, x_of, y_of

BINS = 40
TAIL = 0.998  # of the numbers are in the chart, unless the rest lies near


class Pile(NamedTuple):
    """Numbers of one kind, drawn in the colour of a run."""

    name: str
    numbers: np.ndarray
    colour: int = 0


def histogram(title: str, unit: str, piles: Sequence[Pile], *, counted: bool = True) -> Html | None:
    """A figure that overlays the piles; a `counted` number lies in the middle of its bin. What is outside is told."""
    piles = [pile for pile in piles if len(pile.numbers)]
    if not piles:
        return None
    edges = _edges(np.concatenate([pile.numbers for pile in piles]), counted=counted)
    counts = [np.histogram(pile.numbers, edges)[0] for pile in piles]
    ticks = linear([float(edges[0]), float(edges[-1])], count=5).ticks
    across = Axis(float(edges[0]), float(edges[-1]), [tick for tick in ticks if edges[0] <= tick <= edges[-1]])
    across = whole(across) if counted else across
    up = whole(linear([0.0, float(max(count.max() for count in counts)) or 1.0], from_zero=True, count=4))
    shapes = [_drawn(pile, count, edges, across, up) for pile, count in zip(piles, counts, strict=True)]
    shape = {"viewBox": "0 0 420 220", "class": "chart", "role": "img", "aria-label": title}
    caption = tag("figcaption", {}, tag("b", {}, title), tag("span", {"class": "soft"}, f" {unit}"))
    legend = tag("ul", {"class": "legend"}, (_entry(pile, float(edges[-1])) for pile in piles))
    return tag("figure", {}, caption, legend, tag("svg", shape, grid(across, up), shapes))


def _edges(numbers: np.ndarray, *, counted: bool) -> np.ndarray:
    low, high = float(numbers.min()), float(numbers.max())
    end = float(np.quantile(numbers, TAIL))
    if high < 1.3 * end:
        end = high
    if not counted:
        return np.linspace(low, end if end > low else low + 1, BINS + 1)
    width = max(1, int(np.ceil((end - low + 1) / BINS)))
    return np.arange(int(low), int(end) + width + 1, width) - 0.5


def _drawn(pile: Pile, counts: np.ndarray, edges: np.ndarray, across: Axis, up: Axis) -> Html:
    path = f"M{x_of(across, float(edges[0]))} {y_of(up, 0.0)}"
    for count, end in zip(counts.tolist(), edges[1:].tolist(), strict=True):
        path += f"V{y_of(up, float(count))}H{x_of(across, float(end))}"
    return tag("g", {"class": f"pile {colour(pile.colour)}"}, tag("path", {"d": f"{path}V{y_of(up, 0.0)}Z"}))


def _entry(pile: Pile, end: float) -> Html:
    outside = int((pile.numbers > end).sum())
    told = f"median {label(float(np.median(pile.numbers)))}, up to {label(float(pile.numbers.max()))}"
    if outside:
        told += f" ({outside:,} right of the chart)"
    key = tag("span", {"class": f"key {colour(pile.colour)}"})
    return tag("li", {}, key, joined(pile.name, " "), tag("span", {"class": "value"}, told))
