"""What one wants to know first: how good, how long, how large, and whether it is all there."""

from collections.abc import Sequence

from pytorch_dl.reporting.axis import figure, label
from pytorch_dl.reporting.html import Content, Html, joined, note, table, tag
from pytorch_dl.reporting.line_chart import colour
from pytorch_dl.reporting.run_record import RunRecord
from pytorch_dl.reporting.scores_section import scores_of, told
from pytorch_dl.scoring.names import BLEU, CHRF_PLUS_PLUS, COMET, EXACT_MATCH
from pytorch_dl.training.progress import duration
from pytorch_dl.training.record_lines import is_number, numbers

HEADLINES = (BLEU, CHRF_PLUS_PLUS, EXACT_MATCH, COMET)


def summary(runs: Sequence[RunRecord]) -> Html:
    """Tiles of one run, a table of several, and a line for each thing that is missing."""
    found = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for facts in found for name in facts))
    if len(runs) == 1:
        tiles = (
            tag("div", {"class": "tile"}, tag("dt", {}, name), tag("dd", {}, what)) for name, what in found[0].items()
        )
        shown = tag("dl", {"class": "tiles"}, tiles)
    else:
        rows = [
            [_named(place, run), *(facts.get(name, "") for name in names)]
            for place, (run, facts) in enumerate(zip(runs, found, strict=True))
        ]
        shown = table(["run", *names], rows, numbers=range(1, len(names) + 1))
    several = len(runs) > 1
    missing = [note(f"{f'{run.name}: ' if several else ''}{line}") for run in runs for line in run.missing]
    return tag("div", {"class": "summary"}, shown, missing)


def _named(place: int, run: RunRecord) -> Html:
    return joined(tag("span", {"class": f"key {colour(place)}"}), run.name)


def _facts(run: RunRecord) -> dict[str, Content]:
    scores = scores_of(run.evaluation)
    facts: dict[str, Content] = {name: told(scores[name]) for name in HEADLINES if name in scores}
    best = run.best
    if best and is_number(best.get("val_loss")):
        when = f" step {best['step']:,}{', before averaging' if run.origin.get('averaged') else ''}"
        facts["validation loss of the kept weights"] = joined(f"{best['val_loss']:.3f}", tag("small", {}, when))
    kept = run.origin.get("best_step")
    more = (
        f" {'averaged' if run.origin.get('averaged') else f'best: {kept:,}'}" if isinstance(kept, int) and kept else ""
    )
    facts["steps"] = joined(f"{run.last_step:,}", tag("small", {}, more if run.finished else " not ended"))
    if run.seconds is not None:
        facts["training time"] = duration(run.seconds)
    speeds = sorted(value for _, value in numbers(run.timing.rows, "tokens_per_second"))
    if speeds:
        facts["tokens a second"] = joined(figure(round(speeds[len(speeds) // 2])), tag("small", {}, " median"))
    if run.parameters:
        facts["parameters"] = label(float(f"{run.parameters:.3g}"))
    if run.lengths:
        facts["training pairs"] = f"{len(run.lengths[0]):,}"
    return facts
