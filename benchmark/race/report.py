"""What the measures say: of all trainers, and of the specification's four claims; as tables, JSON and a plot."""

import math
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.race.by_turns import CLAIMED, Figures
from benchmark.race.workload import OURS
from pytorch_dl.training.live_memory import Peak

TEN_MINUTES = 600.0
MINE, OTHERS = "#2a78b5", "#9aa5b1"  # colours


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
    train, read = figures.train_tokens_per_s, figures.sentences_per_s
    memory = {name: [peak.activations / 1e6 for peak in figures.memory[name]] for name in CLAIMED}
    full = {name: [100 * share] for name, share in figures.efficiency.items()}
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


@dataclass(frozen=True)
class Trainer:
    """One trainer's figures; the ratios are to the baseline's of the same repeat."""

    name: str
    what: str
    tokens_per_s: list[float]
    ratios: list[float]
    efficiency: float
    warmup_s: float
    """Seconds of the first steps, compilation included."""
    ten_minutes_per_s: float
    """Tokens a second over a run of ten minutes that begins cold."""
    activations_mb: float | None
    total_mb: float | None
    flops_per_s: float | None
    """Of the matrix products, in the median; None where they are not counted."""
    of_matrix_rate: float | None
    """The same as a share of the machine's rate."""

    @property
    def speed(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.tokens_per_s)


def trainers_of(figures: Figures, *, warmup_steps: int, tokens_a_step: float) -> list[Trainer]:
    """All trainers, the fastest last."""
    found = []
    slow = figures.train_tokens_per_s["baseline"]
    for name, speeds in figures.train_tokens_per_s.items():
        median = statistics.median(speeds)
        warmup = figures.warmup_s[name]
        peaks = figures.memory.get(name)
        flops = figures.sides[name].flops_per_token
        found.append(
            Trainer(
                name,
                figures.sides[name].what,
                speeds,
                [speed / other for speed, other in zip(speeds, slow, strict=True)],
                figures.efficiency[name],
                warmup,
                (warmup_steps * tokens_a_step + max(0.0, TEN_MINUTES - warmup) * median) / TEN_MINUTES,
                statistics.median(peak.activations for peak in peaks) / 1e6 if peaks else None,
                statistics.median(peak.total for peak in peaks) / 1e6 if peaks else None,
                flops * median if flops else None,
                flops * median / figures.roof.matrix_rate if flops else None,
            )
        )
    return sorted(found, key=lambda trainer: trainer.speed)


def trainers_table(trainers: list[Trainer]) -> list[str]:
    """A markdown table of the trainers."""
    lines = [
        "| trainer | tokens/s | × baseline | over 10 minutes | full batches | products, of the matrix rate | "
        "activations MB | all tensors MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for trainer in trainers:
        ratio = f"{statistics.median(trainer.ratios):.2f} ({min(trainer.ratios):.2f} to {max(trainer.ratios):.2f})"
        memory = " | ".join("" if mb is None else f"{mb:,.0f}" for mb in (trainer.activations_mb, trainer.total_mb))
        share = "" if trainer.of_matrix_rate is None else f"{trainer.of_matrix_rate:.0%}"
        lines.append(
            f"| {trainer.name} | {trainer.speed:,.0f} | {ratio} | {trainer.ten_minutes_per_s:,.0f} | "
            f"{trainer.efficiency:.1%} | {share} | {memory} |"
        )
    return lines


def again_lines(figures: Figures) -> list[str]:
    """What it costs and saves to compute activations again: medians of the ratios to ours in the same repeat."""
    lines = []
    speeds, least = figures.train_tokens_per_s, {name: _activations(peaks) for name, peaks in figures.memory.items()}
    for name in speeds.keys() & OURS.keys() - {"ours"}:
        times = [fast / slow for fast, slow in zip(speeds["ours"], speeds[name], strict=True)]
        lines.append(
            f"{name}: {statistics.median(times):.3f} ({min(times):.2f} to {max(times):.2f}) x the time of ours; "
            f"activations {least[name] / least['baseline']:.3f} x the baseline's, {least[name] / least['ours']:.2f} x "
            "those of ours"
        )
    return sorted(lines)


def _activations(peaks: list[Peak]) -> float:
    return statistics.median(peak.activations for peak in peaks) if peaks else math.nan


def rounded(value: float) -> str:
    """A figure in at least three digits."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"


def write_plot(path: Path, claims: list[Claim], trainers: list[Trainer], title: str) -> None:
    """All trainers' speed and memory, and a panel for each claim: bars of medians, dots of repeats."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, 150), fontsize=9)
    above, below = figure.subfigures(2, 1)
    _draw_trainers(above.subplots(1, 2), trainers)
    for axes, claim in zip(below.subplots(1, len(claims)), claims, strict=True):
        _draw_claim(axes, claim)
    figure.supxlabel("dashed: where the specification's claim would be met; dots: repeats", fontsize=8)
    figure.savefig(path, dpi=150)


def _draw_trainers(panels: Any, trainers: list[Trainer]) -> None:
    speed, memory = panels
    colours = [MINE if trainer.name == "ours" else OTHERS for trainer in trainers]
    speed.barh([trainer.name for trainer in trainers], [trainer.speed for trainer in trainers], color=colours)
    for place, trainer in enumerate(trainers):
        speed.plot(
            trainer.tokens_per_s, [place] * len(trainer.tokens_per_s), "o", color="black", markersize=3, alpha=0.6
        )
    speed.set_xlabel("real source and target tokens a second in training", fontsize=8)
    measured = [trainer for trainer in trainers if trainer.total_mb is not None and trainer.activations_mb is not None]
    names = [trainer.name for trainer in measured]
    memory.barh(names, [trainer.total_mb for trainer in measured], color=OTHERS, label="all tensors")
    memory.barh(names, [trainer.activations_mb for trainer in measured], color=MINE, height=0.4, label="activations")
    memory.set_xlabel("megabytes of live tensors at the peak of a step", fontsize=8)
    memory.legend(fontsize=7, frameon=False)
    for axes in panels:
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)


def _draw_claim(axes: Any, claim: Claim) -> None:
    met = claim.medians[0] * claim.claimed
    labels = [f"{name}\n{rounded(value)}" for name, value in zip(CLAIMED, claim.medians, strict=True)]
    axes.bar(labels, claim.medians, color=[OTHERS, MINE], width=0.6)
    for place, repeats in enumerate((claim.baseline, claim.ours)):
        axes.plot([place] * len(repeats), repeats, "o", color="black", markersize=3, alpha=0.6)
    axes.axhline(met, color="#c0392b", linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.1 * max(*claim.baseline, *claim.ours, met))
    better = "lower is better" if claim.lower_is_better else "higher is better"
    axes.set_title(f"{claim.name}: x {claim.ratio:.2f}", fontsize=10)
    axes.set_ylabel(f"{claim.unit} ({better})", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
