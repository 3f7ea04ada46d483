"""The scores of a test set, as tables for people and JSON for programs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_dl.config.units import written
from pytorch_dl.evaluation.breakdown import Breakdown, by_length, by_rarest
from pytorch_dl.evaluation.metrics import (
    bleu,
    bleu_is_defined,
    character_error_rate,
    chrf,
    chrf_plus_plus,
    exact_match,
    ter,
    token_error_rate,
)
from pytorch_dl.files import write_file, write_json
from pytorch_dl.scoring.bootstrap import Interval, intervals
from pytorch_dl.scoring.names import BLEU, CHRF_PLUS_PLUS, COMET, EXACT_MATCH, TER
from pytorch_dl.scoring.score import Score

IN_TABLES = (BLEU, CHRF_PLUS_PLUS, TER, EXACT_MATCH, COMET)  # of the breakdowns; JSON has all scores


@dataclass(frozen=True)
class Evaluation:
    """All scores of a test set with their intervals, as a whole and broken down."""

    scores: Sequence[Score]
    intervals: Sequence[Interval | None]
    breakdowns: Sequence[Breakdown]

    @classmethod
    def of(
        cls, sources: Sequence[str], scores: Sequence[Score], *, counts: Mapping[str, int], counted_in: str
    ) -> "Evaluation":
        """From the scores; `counts` are how often the sources' words occur in the text that `counted_in` names."""
        breakdowns = [
            by_length(sources, scores),
            by_rarest(sources, scores, counts=counts, counted_in=counted_in),
        ]
        return cls(scores, intervals(scores), breakdowns)

    def to_json(self) -> dict[str, Any]:
        """Scores and breakdowns; null stands for what is no number."""
        rows = [
            {**_numbers(score, interval), "signature": score.signature}
            for score, interval in zip(self.scores, self.intervals, strict=True)
        ]
        return {"scores": rows, "breakdowns": [_breakdown_json(breakdown) for breakdown in self.breakdowns]}

    def score_lines(self) -> list[str]:
        """One line for each score, aligned, with its interval and signature."""
        return [
            f"{score.name:<21}{written(score.value, 2):>8}  {_range(interval):<19}{score.signature}".rstrip()
            for score, interval in zip(self.scores, self.intervals, strict=True)
        ]

    def lines(self) -> list[str]:
        """The scores, then the breakdowns as tables."""
        found = self.score_lines()
        for breakdown in self.breakdowns:
            if len(breakdown.buckets) > 1:
                found += ["", _title(breakdown), *aligned(_table(breakdown))]
        return found

    def markdown(self) -> list[str]:
        """The same as tables of Markdown."""
        found = ["| score | value | 95 % interval | signature |", "|---|---:|---|---|"]
        for score, interval in zip(self.scores, self.intervals, strict=True):
            signature = score.signature.replace("|", " ")
            found.append(f"| {score.name} | {written(score.value, 2)} | {_range(interval)} | {signature} |")
        for breakdown in self.breakdowns:
            if len(breakdown.buckets) > 1:
                header, *rows = _table(breakdown)
                found += ["", f"{_title(breakdown)}:", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
                found += [f"| {' | '.join(row)} |" for row in rows]
        return found


def text_scores(
    hypotheses: Sequence[str], references: Sequence[str], *, with_ter: bool = True, bleu_tokenizer: str = "13a"
) -> list[Score]:
    """All scores of texts; BLEU is left out where the references are too short for it."""
    found = bleu(hypotheses, references, tokenizer=bleu_tokenizer)
    return [
        *([found] if bleu_is_defined(found) else []),
        chrf(hypotheses, references),
        chrf_plus_plus(hypotheses, references),
        *([ter(hypotheses, references)] if with_ter else []),
        exact_match(hypotheses, references),
        token_error_rate(hypotheses, references),
        character_error_rate(hypotheses, references),
    ]


def write_report(
    folder: Path, evaluation: Evaluation, samples: Sequence[tuple[str, str, str]], *, facts: dict[str, Any]
) -> None:
    """Write report.json and report.md: scores, facts of the run, and samples of (source, reference, translation)."""
    shown = [{"source": a, "reference": b, "translation": c} for a, b, c in samples]
    write_json(folder / "report.json", {**facts, **evaluation.to_json(), "samples": shown})
    lines = ["# Report", "", *(f"- {name}: {value}" for name, value in facts.items()), "", *evaluation.markdown(), ""]
    for source, reference, translation in samples:
        lines += [f"- source: {source}", f"  - reference: {reference}", f"  - translation: {translation}"]
    write_file(folder / "report.md", "\n".join(lines) + "\n")


def _numbers(score: Score, interval: Interval | None) -> dict[str, Any]:
    low, high = interval or (math.nan, math.nan)
    numbers = {"value": score.value, "low": low, "high": high}
    return {"name": score.name, **{key: value if math.isfinite(value) else None for key, value in numbers.items()}}


def _breakdown_json(breakdown: Breakdown) -> dict[str, Any]:
    buckets = [
        {
            "from": bucket.low,
            "to": bucket.high,
            "lines": bucket.lines,
            "scores": [_numbers(score, interval) for score, interval in bucket.scores],
        }
        for bucket in breakdown.buckets
    ]
    return {"by": breakdown.by, "unit": breakdown.unit, "counted_in": breakdown.counted_in, "buckets": buckets}


def _range(interval: Interval | None) -> str:
    return f"{written(interval.low, 2)} to {written(interval.high, 2)}" if interval else ""


def _title(breakdown: Breakdown) -> str:
    where = f", counted in {breakdown.counted_in}" if breakdown.counted_in else f" in {breakdown.unit}"
    return f"by {breakdown.by}{where}"


def _table(breakdown: Breakdown) -> list[list[str]]:
    """Cells: a header, then each bucket with the scores that tables have, ± half of their interval's width."""
    names = [name for name in IN_TABLES if any(s.name == name for b in breakdown.buckets for s, _ in b.scores)]
    table = [[breakdown.unit if not breakdown.counted_in else "frequency", "lines", *names]]
    for bucket in breakdown.buckets:
        found = {score.name: (score.value, interval) for score, interval in bucket.scores}
        cells = [_cell(*found[name]) if name in found else "" for name in names]
        table.append([bucket.label, f"{bucket.lines:,}", *cells])
    return table


def _cell(value: float, interval: Interval | None) -> str:
    return f"{value:.1f} ±{interval.margin:.1f}" if interval else f"{value:.1f}"


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, with numbers to the right of their columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table]
