"""How good the runs are: scores with intervals and signatures, tests of their differences, and scores by lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_dl.config.units import written
from pytorch_dl.evaluation.report import IN_TABLES
from pytorch_dl.reporting.html import Content, Html, Part, note, part, table, tag
from pytorch_dl.reporting.interval_chart import Estimate, interval_chart
from pytorch_dl.reporting.line_chart import names
from pytorch_dl.reporting.run_record import RunRecord
from pytorch_dl.training.record_lines import is_number

Found = Mapping[str, Any]


def scores_section(runs: Sequence[RunRecord]) -> Part:
    """A table of all scores, and, of several runs, charts of them."""
    with_scores = [run for run in runs if scores_of(run.evaluation)]
    if not with_scores:
        return part("scores", "Scores", note("No run has been evaluated yet."))
    facts = [tag("li", {}, _facts(run, several=len(runs) > 1)) for run in with_scores]
    metrics = list(dict.fromkeys(name for run in runs for name in scores_of(run.evaluation)))
    rows = [_row(name, runs) for name in metrics]
    header = ["score and signature", *(run.name if len(runs) > 1 else "value" for run in runs)]
    charts = _charts(metrics, runs) if len(runs) > 1 else []
    return part(
        "scores",
        "Scores",
        tag("ul", {"class": "facts"}, facts),
        tag("div", {"class": "narrow"}, table(header, rows, numbers=range(1, len(runs) + 1))),
        note("In brackets the 95 % interval by the bootstrap: where another test set of its kind may move it."),
        tag("div", {"class": "charts"}, charts) if charts else None,
    )


def breakdown_section(runs: Sequence[RunRecord]) -> Part | None:
    """Scores by the length of the source, and by its rarest word; None where no run has them."""
    kinds = list(dict.fromkeys(key for run in runs for key in _breakdowns(run.evaluation)))
    charts = []
    for kind in kinds:
        for name in IN_TABLES:
            rows = _bucket_rows(kind, name, runs)
            if len(rows) > 1 and any(estimate.high or estimate.value for _, some in rows for estimate in some):
                chart = interval_chart(f"{name} by {kind[0]}", _unit(kind), rows)
                charts += [chart] if chart else []
    if not charts:
        return None
    explained = note(
        "Each row is the lines of the evaluated text whose number is in the range, with its 95 % interval."
    )
    whose = names([run.name for run in runs]) if len(runs) > 1 else None
    return part("breakdown", "Scores by length and rarity", explained, whose, tag("div", {"class": "charts"}, charts))


def scores_of(evaluation: Found) -> dict[str, Found]:
    """The scores of a report by their names; what is no score is left out."""
    given = evaluation.get("scores")
    rows = given if isinstance(given, list) else []
    return {row["name"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)}


def told(score: Found) -> Html | str:
    """A score with its interval."""
    value, low, high = (score.get(name) for name in ("value", "low", "high"))
    if not is_number(value):
        return "no number"
    interval = (
        tag("small", {}, f" [{written(low, 2)}, {written(high, 2)}]") if is_number(low) and is_number(high) else None
    )
    return tag("span", {"class": "figure"}, written(value, 2), interval)


def _facts(run: RunRecord, *, several: bool) -> str:
    found = run.evaluation
    pairs = f"{found['pairs']:,} pairs" if isinstance(found.get("pairs"), int) else "pairs"
    words = [f"the {found.get('text', 'evaluated')} text of {pairs}"]
    words += [f"{found['beam_size']} beams" if found["beam_size"] != 1 else "greedy"] if found.get("beam_size") else []
    if run.answers and (whole := run.answers.lengths(1).sum()):
        ratio = run.answers.lengths(2).sum() / whole
        words.append(f"the translations have {ratio:.2f} times the {run.answers.unit} of the references")
    return f"{f'{run.name}: ' if several else 'On '}{', '.join(words)}."


def _row(name: str, runs: Sequence[RunRecord]) -> list[Content]:
    """The name with its signature, and the score of each run."""
    found = [scores_of(run.evaluation).get(name) for run in runs]
    signatures = dict.fromkeys(str(score.get("signature", "")) for score in found if score)
    codes = [tag("code", {"class": "wrap"}, signature) for signature in signatures if signature]
    return [tag("div", {}, name, codes), *(told(score) if score else "" for score in found)]


def _charts(metrics: Sequence[str], runs: Sequence[RunRecord]) -> list[Html]:
    charts = []
    for name in metrics:
        rows = []
        for place, run in enumerate(runs):
            estimate = _estimate(place, scores_of(run.evaluation).get(name))
            rows.append((_cut(run.name), [estimate] if estimate else []))
        if name in IN_TABLES and (chart := interval_chart(name, "", rows)):
            charts.append(chart)
    return charts


def _cut(name: str) -> str:
    return name if len(name) <= 22 else f"…{name[-21:]}"


def _estimate(colour: int, score: Found | None) -> Estimate | None:
    if not score or not is_number(score.get("value")):
        return None
    low, high = (float(score[name]) if is_number(score.get(name)) else None for name in ("low", "high"))
    return Estimate(colour, float(score["value"]), low, high)


def _breakdowns(evaluation: Found) -> Mapping[tuple[str, str, str], Sequence[Found]]:
    """Buckets by what they are of, its unit, and where it was counted."""
    given = evaluation.get("breakdowns")
    found = {}
    for one in given if isinstance(given, list) else []:
        if isinstance(one, dict) and isinstance(one.get("buckets"), list):
            key = tuple(str(one.get(name) or "") for name in ("by", "unit", "counted_in"))
            found[key[0], key[1], key[2]] = [bucket for bucket in one["buckets"] if _is_bucket(bucket)]
    return found


def _is_bucket(bucket: object) -> bool:
    return isinstance(bucket, dict) and all(isinstance(bucket.get(name), int) for name in ("from", "lines"))


def _bucket_rows(kind: tuple[str, str, str], name: str, runs: Sequence[RunRecord]) -> list[tuple[str, list[Estimate]]]:
    rows: dict[tuple[int, str], list[Estimate]] = {}
    for place, run in enumerate(runs):
        for bucket in _breakdowns(run.evaluation).get(kind, ()):
            estimate = _estimate(place, scores_of(bucket).get(name))
            if estimate:
                rows.setdefault((bucket["from"], _label(bucket)), []).append(estimate)
    return [(label, rows[low, label]) for low, label in sorted(rows)]


def _label(bucket: Found) -> str:
    low, high, lines = bucket["from"], bucket.get("to"), f" ({bucket['lines']:,})"
    if not isinstance(high, int):
        return (f"{low:,} and more" if low else "all") + lines
    return (f"{low:,}" if low == high else f"{low:,} to {high:,}" if low else f"up to {high:,}") + lines


def _unit(kind: tuple[str, str, str]) -> str:
    where = f"counted in {kind[2]}" if kind[2] else f"in {kind[1]}"
    return f"{where} (lines)"
