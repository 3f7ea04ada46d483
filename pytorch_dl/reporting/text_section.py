"""What the texts are and what became of them: lengths, translations over training, and the worst ones of the end."""

import difflib
import re
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np

from pytorch_dl.reporting.answers import Answer, Answers
from pytorch_dl.reporting.histogram import Pile, histogram
from pytorch_dl.reporting.html import Content, Html, Part, joined, note, part, table, tag, text
from pytorch_dl.reporting.run_record import RunRecord
from pytorch_dl.scoring.names import CHRF

WORST = 20
FEWEST = 3  # of each of many runs
SAMPLES = 3
STEPS = 12  # of which samples are shown
COMPARED_LETTERS = 600  # of a text, whose differences are looked for


def lengths_section(runs: Sequence[RunRecord]) -> Part:
    """How long the training pairs are, in tokens, and what was evaluated, in words."""
    charts = []
    for side, name in enumerate(("Source", "Target")):
        charts.append(histogram(f"{name} length", "tokens of training text; pairs", _token_piles(runs, side)))
    first = next((run.answers for run in runs if run.answers), None)
    if first:
        charts.append(histogram("Length of what was evaluated", f"{first.unit}; lines", _text_piles(runs, first)))
        piles = [
            Pile(run.name, np.array(run.answers.chrf), place)
            for place, run in enumerate(runs)
            if run.answers is not None
        ]
        charts.append(histogram(f"{CHRF} of single lines", "lines", piles, counted=False))
    shown = [chart for chart in charts if chart]
    gone = [run.name for run in runs if run.lengths is None]
    told = note(f"The prepared training text is not there: {', '.join(gone)}.") if gone else None
    return part("lengths", "Lengths", tag("div", {"class": "charts"}, shown), told)


def samples_section(runs: Sequence[RunRecord]) -> Part:
    """The first validation pairs and how they were translated as training went on."""
    parts = [one for run in runs for one in _samples(run, several=len(runs) > 1)]
    return part("samples", "Translations over training", parts)


def worst_section(runs: Sequence[RunRecord]) -> Part | None:
    """The wrong answers that are furthest from their references; None where no run was evaluated."""
    parts: list[Html] = []
    for run in (run for run in runs if run.answers):
        assert run.answers
        worst = run.answers.worst(max(FEWEST, WORST // len(runs)))
        if len(runs) > 1:
            parts.append(tag("h3", {}, run.name))
        if worst:
            rows: list[list[Content]] = [[f"{value:.1f}", *_answer(answer)] for value, answer in worst]
            parts.append(tag("div", {"class": "texts"}, table([CHRF, "source", "reference", "translation"], rows)))
        else:
            parts.append(note("Every line was translated exactly as its reference."))
    explained = note(
        "By chrF2 of the single line, lowest first. Marked: what the reference has otherwise or not at all."
    )
    return part("worst", "The worst lines", explained, parts) if parts else None


def marked(translation: str, reference: str) -> Html:
    """A translation in which what differs from the reference is marked."""
    if max(len(translation), len(reference)) > COMPARED_LETTERS:
        return text(translation)
    ours, theirs = _words(translation), _words(reference)
    blocks = difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes()
    parts: list[tuple[bool, str]] = []
    for kind, _, _, start, stop in blocks:
        words = "".join(ours[start:stop])
        other = kind != "equal" or (bool(parts) and parts[-1][0] and words.isspace())  # spaces between marks join them
        parts += [(other, words)] if words else []
    runs = [(other, "".join(words for _, words in some)) for other, some in groupby(parts, key=itemgetter(0))]
    return tag("bdi", {"dir": "auto"}, (tag("mark", {}, words) if other else joined(words) for other, words in runs))


def _words(line: str) -> list[str]:
    """Words and what is between them; characters, where nothing is."""
    return re.findall(r"\s+|\w+|[^\w\s]+", line) if re.search(r"\s", line.strip()) else list(line)


def _answer(answer: Answer) -> list[Content]:
    translation = marked(answer.translation, answer.reference) if answer.translation else tag("i", {}, "nothing")
    return [text(answer.source), text(answer.reference), translation]


def _samples(run: RunRecord, *, several: bool) -> list[Html]:
    title = [tag("h3", {}, run.name)] if several else []
    if not run.samples:
        return [*title, note("No samples were recorded: training.eval_decode is 0, or no validation came yet.")]
    steps = [step for step, _ in run.samples]
    places = sorted({round(place) for place in np.linspace(0, len(steps) - 1, min(STEPS, len(steps))).tolist()})
    shown = [run.samples[place] for place in places]
    parts = list(title)
    for number in range(min(1 if several else SAMPLES, len(shown[-1][1]))):
        last = shown[-1][1][number]
        rows: list[list[Content]] = [["source", text(last.src)], ["reference", text(last.reference)]]
        rows += [
            [f"step {step:,}", marked(samples[number].translation, last.reference)]
            for step, samples in shown
            if number < len(samples) and samples[number].src == last.src
        ]
        parts.append(_card(rows))
    left_out = len(steps) - len(shown)
    return [*parts, *([note(f"{left_out:,} validations between them are left out.")] if left_out else [])]


def _card(rows: Sequence[Sequence[Content]]) -> Html:
    return tag("dl", {"class": "steps"}, (joined(tag("dt", {}, name), tag("dd", {}, what)) for name, what in rows))


def _token_piles(runs: Sequence[RunRecord], side: int) -> list[Pile]:
    """One for each run with other lengths than those before it."""
    piles: list[Pile] = []
    for place, run in enumerate(runs):
        if run.lengths is None:
            continue
        same = next((i for i, pile in enumerate(piles) if np.array_equal(pile.numbers, run.lengths[side])), None)
        name = run.name if len(runs) > 1 else "training text"
        if same is None:
            piles.append(Pile(name, run.lengths[side], place))
        else:
            piles[same] = piles[same]._replace(name=f"{piles[same].name}, {name}")
    return piles


def _text_piles(runs: Sequence[RunRecord], first: Answers) -> list[Pile]:
    piles = [Pile("references", first.lengths(1), 7)]
    for place, run in enumerate(runs):
        if run.answers and run.answers.unit == first.unit:
            name = f"{run.name}, translations" if len(runs) > 1 else "translations"
            piles.append(Pile(name, run.answers.lengths(2), place))
    return piles
