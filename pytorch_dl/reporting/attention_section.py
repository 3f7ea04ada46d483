"""Where the models looked in the source while they wrote some of their translations."""

from collections.abc import Sequence

from pytorch_dl.errors import UserError
from pytorch_dl.generation.attention_map import AttentionMap
from pytorch_dl.reporting.heat_map import heat_map
from pytorch_dl.reporting.html import Html, Part, note, part, tag
from pytorch_dl.reporting.run_record import RunRecord
from pytorch_dl.translator import load

MAPS = 4  # of all runs
MOST_TOKENS = 32  # of a side, so that a map can be read
CANDIDATES = 200
Pair = tuple[str, str]


def attention_section(runs: Sequence[RunRecord], *, wanted: bool) -> Part:
    """Maps of a few pairs, by each run's model on the CPU."""
    parts: list[Html] = []
    for run in runs[:MAPS] if wanted else []:
        if len(runs) > 1:
            parts.append(tag("h3", {}, run.name))
        parts += _maps(run, max(1, MAPS // len(runs)))
    explained = (
        "Each row is a token that was written, each column one of the source: the mean over the heads of all layers. "
        "The stronger the colour, the more of its attention the token gave; the full colour is the largest share."
    )
    if len(runs) > MAPS:
        explained += f" Shown are the first {MAPS} runs."
    what = note(explained) if wanted else note("Left out, for they were not asked for.")
    return part("attention", "Where the model looked", what, tag("div", {"class": "maps"}, parts))


def attention_pairs(run: RunRecord, count: int) -> list[tuple[str, AttentionMap]]:
    """Sources and maps, of the first translations that are short enough to be read."""
    pairs = [pair for pair in _pairs(run) if all(map(_can_be_read, pair))][:CANDIDATES]
    if not pairs:
        return []
    translator = load(run.folder.path, device="cpu")
    src, tgt = translator.tokenizers.src, translator.tokenizers.tgt
    chosen: list[tuple[str, list[int]]] = []
    for source, translation in pairs:
        ids = [*tgt.encode(translation), tgt.eos_id]
        if max(len(src.encode(source)) + 1, len(ids)) <= min(MOST_TOKENS, translator.model.max_seq_len):
            chosen.append((source, ids))
        if len(chosen) == count:
            break
    if not chosen:
        return []
    sources, targets = zip(*chosen, strict=True)
    return list(zip(sources, translator.attention_maps(sources, targets), strict=True))


def _maps(run: RunRecord, count: int) -> list[Html]:
    try:
        found = attention_pairs(run, count)
    except UserError as error:
        return [note(f"No map: {error.what}.")]
    if not found:
        return [note(f"No map: no translation of at most {MOST_TOKENS} tokens is recorded.")]
    return [heat_map(attention, run=run.name) for _, attention in found]


def _can_be_read(text: str) -> bool:
    """Not blank, and no half of a character, which JSON may hold."""
    return bool(text.strip()) and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _pairs(run: RunRecord) -> list[Pair]:
    """What the run translated last, in the order of the text where that is known."""
    samples = run.evaluation.get("samples")
    first = [
        (one["source"], one["translation"])
        for one in (samples if isinstance(samples, list) else [])
        if isinstance(one, dict) and isinstance(one.get("source"), str) and isinstance(one.get("translation"), str)
    ]
    lines = [(line.source, line.translation) for line in run.answers.lines] if run.answers else []
    newest = [(sample.src, sample.translation) for sample in run.samples[-1][1]] if run.samples else []
    return list(dict.fromkeys([*first, *lines, *newest]))
