"""The scores of a test set, as a table for people and a JSON file for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_dl.evaluation.metrics import (
    Score,
    bleu,
    character_error_rate,
    chrf,
    exact_match,
    has_four_grams,
    perplexity,
    token_error_rate,
)
from pytorch_dl.files import write_file, write_json


def score(hypotheses: Sequence[str], references: Sequence[str], *, nll: float, num_tokens: int) -> list[Score]:
    """All scores of a test set; nll is the references' negative log-likelihood in nats, summed over their tokens.

    BLEU is left out where the references are too short for it.
    """
    return [
        *([bleu(hypotheses, references)] if has_four_grams(references) else []),
        chrf(hypotheses, references),
        exact_match(hypotheses, references),
        token_error_rate(hypotheses, references),
        character_error_rate(hypotheses, references),
        Score("perplexity", perplexity(nll, num_tokens), f"tokens:{num_tokens}"),
    ]


def score_lines(scores: Sequence[Score]) -> list[str]:
    """One line for each score, aligned, with its signature."""
    return [f"{s.name:<21}{s.value:>8.2f}  {s.signature}" for s in scores]


def write_report(
    folder: Path, scores: Sequence[Score], samples: Sequence[tuple[str, str, str]], *, facts: dict[str, Any]
) -> None:
    """Write report.json and report.md: scores, facts of the run, and samples of (source, reference, translation)."""
    rows = [{"name": s.name, "value": s.value, "signature": s.signature} for s in scores]
    shown = [{"source": a, "reference": b, "translation": c} for a, b, c in samples]
    write_json(folder / "report.json", {**facts, "scores": rows, "samples": shown})
    lines = [
        "# Report",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "| score | value | signature |",
    ]
    lines += [
        "|---|---:|---|",
        *(f"| {s.name} | {s.value:.2f} | {s.signature.replace('|', ' ')} |" for s in scores),
        "",
    ]
    for source, reference, translation in samples:
        lines += [f"- source: {source}", f"  - reference: {reference}", f"  - translation: {translation}"]
    write_file(folder / "report.md", "\n".join(lines) + "\n")
