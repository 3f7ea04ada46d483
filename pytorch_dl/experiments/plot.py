"""A comparison as a picture: each arm's score with its interval and its seeds, and its difference from the first."""

import io
from pathlib import Path

from pytorch_dl.experiments.verdict import NOTHING, Difference, Findings
from pytorch_dl.files import write_file

ALIKE, SHOWN, SEEDS = "#9aa5b1", "#2a78b5", "#333333"


def draw(path: Path, findings: Findings) -> None:
    """Write the picture as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = [score for score in findings.scores if score.metric == findings.metric]
    rows = max(len(scores), len(findings.differences))
    figure = Figure(figsize=(13, 0.4 * rows + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for place, score in enumerate(scores):
        if score.interval:
            left.plot(score.interval, [place, place], color=SHOWN, linewidth=2)
        left.plot(score.by_seed, [place] * len(score.by_seed), "o", color=SEEDS, markersize=3)
        left.plot([score.value], [place], "|", color=SHOWN, markersize=14, markeredgewidth=2)
    left.set_yticks(range(len(scores)), [score.arm for score in scores], parse_math=False)
    left.set_xlabel(f"{findings.metric}: mean, 95 % interval; a dot for each seed", fontsize=8)
    for place, difference in enumerate(findings.differences):
        colour = ALIKE if difference.word == NOTHING else SHOWN
        if difference.interval:
            right.plot(difference.interval, [place, place], color=colour, linewidth=2)
        right.plot([difference.value], [place], "o", color=colour, markersize=5)
    right.axvline(0, color=SEEDS, linewidth=0.8)
    labels = [_label(difference) for difference in findings.differences]
    right.set_yticks(range(len(labels)), labels, parse_math=False)  # a name may hold two dollars
    right.set_xlabel(f"difference in {findings.metric}; grey: {NOTHING}", fontsize=8)
    for axes in (left, right):
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, dpi=150, format="png", metadata={"Software": None})
    write_file(path, image.getvalue())


def _label(difference: Difference) -> str:
    return f"{difference.other}\nless {difference.first}"
