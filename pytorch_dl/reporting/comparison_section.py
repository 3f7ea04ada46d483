"""Whether systems differ by more than luck: runs that translated the same text, and what `evaluate --json` compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_dl.errors import DataError
from pytorch_dl.evaluation.metrics import bleu, bleu_is_defined, chrf_plus_plus, exact_match
from pytorch_dl.experiments.compare import ONE_SEED, compare
from pytorch_dl.files import read_json
from pytorch_dl.reporting.answers import Answers
from pytorch_dl.reporting.html import Content, Html, Part, note, part, table, tag
from pytorch_dl.reporting.run_record import RunRecord
from pytorch_dl.scoring.score import Score
from pytorch_dl.training.record_lines import is_number

Rows = Sequence[Mapping[str, Any]]


def comparison_section(runs: Sequence[RunRecord], evaluations: Sequence[Path]) -> Part | None:
    """Tables of the comparisons; None where there is nothing to compare."""
    parts = _between(runs) if len(runs) > 1 else []
    for path in evaluations:
        rows = read_comparisons(path)
        first = str(rows[0].get("first", "")) if rows else ""
        parts += [note(f"{path}: systems against {first}.") if rows else note(f"{path}: it compares nothing.")]
        parts += [_table(rows)] if rows else []
    if not parts:
        return None
    explained = (
        "Each difference is tested by paired approximate randomisation: p is how often systems that are alike would "
        "differ as much. One below the level, which all comparisons of a metric share, is shown as better or worse: "
        f"{ONE_SEED}; pytorch-dl compare tells, which trains each several times."
    )
    return part("comparison", "Comparison", note(explained), parts)


def read_comparisons(path: Path) -> Rows:
    """Those of a file that `evaluate --json` printed; a DataError where it is none."""
    try:
        given = read_json(path)["comparisons"]
        if not isinstance(given, list):
            raise TypeError("comparisons is no list")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = f"{error.strerror}" if isinstance(error, OSError) else f"it is no evaluation ({error!r})"
        fix = "give what `pytorch-dl evaluate --compare ... --json` printed"
        raise DataError(why, where=str(path), fix=fix) from None
    return [row for row in given if isinstance(row, dict)]


def _between(runs: Sequence[RunRecord]) -> list[Html]:
    """The runs that translated the first run's text."""
    first = runs[0].answers
    if first is None:
        return [note(f"{runs[0].name} was not evaluated: no run is compared with it.")]
    alike = {run.name: run.answers for run in runs if run.answers and run.answers.is_of_the_same_text(first)}
    others = [run.name for run in runs if run.name not in alike]
    told = [note(f"Not compared, for they were not evaluated on the text of {runs[0].name}: {', '.join(others)}.")]
    found = told if others else []
    if len(alike) < 2:
        return found
    comparison = compare({name: _scores(answers) for name, answers in alike.items()})
    rows = json.loads(json.dumps(comparison.to_json()))
    return [note(f"Runs against {runs[0].name}, on the text that they were evaluated on."), _table(rows), *found]


def _scores(answers: Answers) -> list[Score]:
    """In one order of the lines, whatever was right or wrong."""
    lines = sorted(answers.lines)
    texts = [line.translation for line in lines], [line.reference for line in lines]
    found = bleu(*texts)
    return [*([found] if bleu_is_defined(found) else []), chrf_plus_plus(*texts), exact_match(*texts)]


def _table(rows: Rows) -> Html:
    header = ["metric", "system", "value", "difference", "p", "level", "verdict"]
    return table(header, [_cells(row) for row in rows], numbers=(2, 3, 4, 5))


def _cells(row: Mapping[str, Any]) -> list[Content]:
    verdict = str(row.get("verdict", ""))
    interval = None
    if is_number(row.get("low")) and is_number(row.get("high")):
        interval = tag("small", {}, f" [{row['low']:.2f}, {row['high']:.2f}]")
    return [
        str(row.get("metric", "")),
        str(row.get("system", "")),
        tag("span", {"class": "figure"}, _number(row.get("value"), ".2f"), interval),
        _number(row.get("difference"), "+.2f"),
        _number(row.get("p_value"), ".4f"),
        _number(row.get("level"), ".4g"),
        tag("b", {}, verdict) if verdict in ("better", "worse") else verdict,
    ]


def _number(value: Any, form: str) -> str:
    return format(value, form) if is_number(value) else ""
