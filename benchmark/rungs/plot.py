"""The ladder as a picture: speed and memory of each rung, the rungs below one another."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LADDER, BESIDE = "#2a78b5", "#9aa5b1"


def median_ratio(speeds: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios within a repeat."""
    return statistics.median(one / other for one, other in zip(speeds, others, strict=True))


def write_ladder(path: Path, rows: list[dict[str, Any]]) -> None:
    """Bars of the medians with dots of the repeats, and beside them the memory."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 0.32 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    speed, memory = figure.subplots(1, 2, sharey=True)
    places = range(len(rows), 0, -1)
    colours = [BESIDE if row["name"].startswith("whole") else LADDER for row in rows]
    medians = [statistics.median(row["tokens_per_s"]) for row in rows]
    speed.barh(places, medians, color=colours)
    for place, row in zip(places, rows, strict=True):
        repeats = row["tokens_per_s"]
        speed.plot(repeats, [place] * len(repeats), "o", color="black", markersize=2.5, alpha=0.5)
        ratio = median_ratio(repeats, rows[0]["tokens_per_s"])
        speed.annotate(f" {ratio:.2f} x", (max(repeats), place), va="center", fontsize=7)
    speed.set_yticks(list(places), [row["name"] for row in rows])
    speed.set_xlim(0, 1.12 * max(max(row["tokens_per_s"]) for row in rows))
    speed.set_xlabel("real source and target tokens a second (x: of the plain one)", fontsize=8)
    memory.barh(places, [row["activations_mb"] for row in rows], color=colours)
    plain = rows[0]["activations_mb"]
    for place, row in zip(places, rows, strict=True):
        mb = row["activations_mb"]
        memory.annotate(f" {mb / plain:.2f} x", (mb, place), va="center", fontsize=7)
    memory.set_xlim(0, 1.12 * max(row["activations_mb"] for row in rows))
    memory.set_xlabel("megabytes of activations at the peak of a step", fontsize=8)
    for axes in (speed, memory):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
