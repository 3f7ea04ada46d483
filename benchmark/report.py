"""What the measures say about the specification's four claims: a table, a JSON file, a plot."""

import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.measures import NAMES, Figures


@dataclass(frozen=True)
class Claim:
    """One claim of the specification, and the repeats of both sides that speak for or against it."""

    name: str
    unit: str
    said: str
    """What the specification says of its own original and optimized version."""
    claimed: float
    """The same as a ratio, optimized / original."""
    lower_is_better: bool
    baseline: list[float]
    ours: list[float]

    @property
    def medians(self) -> tuple[float, float]:
        """Of baseline and ours."""
        return statistics.median(self.baseline), statistics.median(self.ours)

    @property
    def ratio(self) -> float:
        """Ours / baseline, of the medians."""
        baseline, ours = self.medians
        return ours / baseline

    @property
    def ratio_range(self) -> tuple[float, float]:
        """The least and the greatest ratio of a repeat."""
        ratios = [ours / baseline for baseline, ours in zip(self.baseline, self.ours, strict=True)]
        return min(ratios), max(ratios)

    @property
    def holds(self) -> bool:
        """Whether the improvement is at least as large as the one claimed."""
        return self.ratio <= self.claimed if self.lower_is_better else self.ratio >= self.claimed

    def as_json(self) -> dict[str, Any]:
        """The claim with all that follows from it."""
        baseline, ours = self.medians
        return {
            "name": self.name,
            "unit": self.unit,
            "lower_is_better": self.lower_is_better,
            "baseline": {"median": baseline, "repeats": self.baseline},
            "ours": {"median": ours, "repeats": self.ours},
            "ratio": self.ratio,
            "ratio_range": list(self.ratio_range),
            "specification": {"says": self.said, "ratio": self.claimed},
            "holds": self.holds,
        }


def claims_of(figures: Figures) -> list[Claim]:
    """The four claims, in the specification's order."""
    memory, train, read = figures.memory_mb, figures.train_tokens_per_s, figures.sentences_per_s
    full = {name: [100 * epoch.efficiency] for name, epoch in figures.epochs.items()}
    return [
        Claim("memory", "MB", "8.2 -> 4.7 GB: 42 % less", 0.58, True, memory["baseline"], memory["ours"]),
        Claim("training speed", "tokens/s", "50 % faster", 1.5, False, train["baseline"], train["ours"]),
        Claim("inference speed", "sentences/s", "40 % faster", 1.4, False, read["baseline"], read["ours"]),
        Claim("batch efficiency", "%", "65 -> 89 %: 37 % more", 1.37, False, full["baseline"], full["ours"]),
    ]


def table(claims: list[Claim]) -> list[str]:
    """One aligned line for each claim."""
    rows = [("claim", "unit", "baseline", "ours", "ours / baseline", "specification", "its claim here")]
    for claim in claims:
        low, high = claim.ratio_range
        spread = f" ({low:.2f} to {high:.2f})" if len(claim.ours) > 1 else ""
        wanted = f"{claim.said} ({claim.claimed:.2f})"
        verdict = "holds" if claim.holds else "DOES NOT HOLD"
        baseline, ours = map(rounded, claim.medians)
        rows.append((claim.name, claim.unit, baseline, ours, f"{claim.ratio:.2f}{spread}", wanted, verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def rounded(value: float) -> str:
    """A figure in at least three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"


def write_plot(path: Path, claims: list[Claim], title: str) -> None:
    """A panel for each claim: bars of the medians, dots of the repeats, a line where the claim would be met."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, 150), fontsize=9)
    for axes, claim in zip(figure.subplots(1, len(claims)), claims, strict=True):
        met = claim.medians[0] * claim.claimed
        labels = [f"{name}\n{rounded(value)}" for name, value in zip(NAMES, claim.medians, strict=True)]
        axes.bar(labels, claim.medians, color=["#9aa5b1", "#2a78b5"], width=0.6)
        for place, repeats in enumerate((claim.baseline, claim.ours)):
            axes.plot([place] * len(repeats), repeats, "o", color="black", markersize=3, alpha=0.6)
        axes.axhline(met, color="#c0392b", linestyle="--", linewidth=1)
        axes.set_ylim(0, 1.1 * max(*claim.baseline, *claim.ours, met))
        better = "lower is better" if claim.lower_is_better else "higher is better"
        axes.set_title(f"{claim.name}: x {claim.ratio:.2f}", fontsize=10)
        axes.set_ylabel(f"{claim.unit} ({better})", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("dashed: where the specification's claim would be met; dots: repeats", fontsize=8)
    figure.savefig(path, dpi=150)
