"""The figure of growth.py: a panel for each sweep, and all points under the machine's roofline."""

import textwrap
from pathlib import Path
from typing import Any

SPEED, MEMORY = "#2a78b5", "#c0392b"
COLORS = ("#2a78b5", "#e08a1e", "#3a9a5b", "#8e5bb5", "#c0392b")
MARKERS = "osD^v"
NAMES = {
    "d_model": "d_model (d_ff 4 times as much, heads of one width)",
    "layers": "layers of encoder and decoder each",
    "sentence_length": "tokens of a sentence",
    "vocabulary": "vocabulary",
    "tokens": "tokens of a step on each side",
}


def write_plot(path: Path, written: dict[str, Any]) -> None:
    """Draw what growth.json holds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title(written), 170), fontsize=10)
    panels = figure.subplots(2, 3, gridspec_kw={"hspace": 0.08, "wspace": 0.06}).flat
    for axes, (name, points) in zip(panels, written["sweeps"].items(), strict=False):
        draw_sweep(axes, NAMES[name], points)
    draw_roofline(panels[-1], written)
    figure.supxlabel(
        "lines: medians; dots: repeats; titles: how a step's cost grows from the first point to the last", fontsize=8
    )
    figure.savefig(path, dpi=150)


def title(written: dict[str, Any]) -> str:
    """What was measured, and where."""
    where, settings = written["machine"], written["settings"]
    base = settings["base"]
    on = f"{where['cpu']}, threads: {where['cpu_threads']}" if settings["device"] == "cpu" else where["gpu"]
    return (
        f"A training step on {on}, {settings['precision']}, {'' if settings['compiled'] else 'not '}compiled. "
        f"Base point: d_model {base['d_model']}, {base['layers']}+{base['layers']} layers, vocabulary "
        f"{base['vocabulary']:,}, {base['tokens']:,} tokens a step on each side, sentences of {base['sentence_length']}"
    )


def draw_sweep(axes: Any, name: str, points: list[dict[str, Any]]) -> None:
    """Tokens a second on the left, memory on the right."""
    values = [point["value"] for point in points]
    speeds = [point["tokens_per_s"] for point in points]
    axes.plot(values, [speed["median"] for speed in speeds], "-", color=SPEED)
    for value, speed in zip(values, speeds, strict=True):
        axes.plot([value] * len(speed["repeats"]), speed["repeats"], "o", color=SPEED, markersize=4, alpha=0.5)
    memory = axes.twinx()
    megabytes = [point["memory_bytes"] / 1e6 for point in points]
    memory.plot(values, megabytes, "s--", color=MEMORY, markersize=5)
    fastest = max(max(speed["repeats"]) for speed in speeds)
    for side, label, color, top in (
        (axes, "real tokens / s", SPEED, fastest),
        (memory, "memory of a step, MB", MEMORY, max(megabytes)),
    ):
        side.set_ylim(0, 1.12 * top)
        side.set_ylabel(label, color=color, fontsize=9)
        side.tick_params(axis="y", labelcolor=color, labelsize=8)
        side.yaxis.set_major_formatter(lambda number, _: f"{number:,.10g}")
        side.spines["top"].set_visible(False)
    axes.set_xlim(0, 1.05 * max(values))  # what grows in proportion lies on a line through the corner
    axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=7)
    axes.set_xlabel(name, fontsize=9)
    axes.set_title(growth(points), fontsize=9)


def growth(points: list[dict[str, Any]]) -> str:
    """How many times as much the last point costs as the first."""
    first, last = points[0], points[-1]
    names = {"FLOPs": "flops_per_step", "time": "step_s", "memory": "memory_bytes"}
    costs = ", ".join(f"{name} × {last[key] / first[key]:.1f}" for name, key in names.items())
    return f"× {last['value'] / first['value']:.3g}: {costs}"


def draw_roofline(axes: Any, written: dict[str, Any]) -> None:
    """FLOP/s over FLOPs for each byte, both logarithmic; larger marks are larger values of a sweep."""
    roof = written["roofline"]
    rate, bandwidth = roof["matrix_flops_per_s"], roof["bandwidth_bytes_per_s"]
    points = [point for sweep in written["sweeps"].values() for point in sweep]
    ridge = rate / bandwidth
    ends = min(ridge, *(p["intensity"] for p in points)) / 3, max(ridge, *(p["intensity"] for p in points)) * 3
    axes.plot((ends[0], ridge, ends[1]), (bandwidth * ends[0], rate, rate), "-", color="black", linewidth=1.5)
    marks = zip(written["sweeps"].items(), COLORS, MARKERS, strict=True)
    for (name, sweep), color, marker in marks:
        x, y = [p["intensity"] for p in sweep], [p["flops_per_s"] for p in sweep]
        sizes = [18 + 14 * place for place in range(len(sweep))]
        axes.plot(x, y, "-", color=color, linewidth=0.8, alpha=0.6)
        axes.scatter(x, y, s=sizes, marker=marker, label=name, facecolors="none", edgecolors=color, linewidths=1.2)
    axes.set(xscale="log", yscale="log", xlim=ends)
    axes.set_ylim(min(bandwidth * ends[0], *(p["flops_per_s"] for p in points)) / 4, rate * 2)  # room for the legend
    axes.set_xlabel("FLOPs / byte, of the least bytes (32 a parameter in fp32)", fontsize=9)
    axes.set_ylabel("FLOP/s of real tokens", fontsize=9)
    axes.set_title(
        f"roofline: {rate / 1e12:.3g} TFLOP/s, {bandwidth / 1e9:.3g} GB/s; larger marks: larger values", fontsize=9
    )
    axes.legend(fontsize=8, loc="lower center", ncols=3)
    axes.tick_params(labelsize=8)
    axes.grid(which="major", linewidth=0.3)
    axes.spines[["top", "right"]].set_visible(False)
