"""What the figures of a data check mean: an error would train garbage or stop training, a warning is worth a look."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pytorch_dl.dataset.alignment import BLOCK, MISALIGNED, misaligned_blocks
from pytorch_dl.dataset.direction import swapped
from pytorch_dl.dataset.summary import FAR_RATIO, CorpusSummary, DataSummary, TokenSummary, pair_hashes, src_hashes
from pytorch_dl.dataset.survey import SHOWN_FAULTS, SideTokens, Survey, numbers
from pytorch_dl.dataset.text_files import PairStream, TextSource
from pytorch_dl.dataset.text_pair import Fault

MANY_DROPPED = 0.1  # of the pairs are blank or too long
MANY_IDENTICAL = 0.2
MANY_REPEATED = 0.2
MANY_SHARED = 0.1  # of the validation text is also training text
MANY_FAR = 0.05
UNKNOWN_WARNING, UNKNOWN_ERROR = 0.01, 0.2
MANY_CHANGED = 0.05  # of the sample is not given back by encoding and decoding
SHORT = 24  # characters of a median text that may be a word with its spelling
PIECES = 1.5  # characters a token, over which tokens are pieces of words
MANY_PAIRS = 100_000  # from which pieces of words are learnt as well as characters
MANY_CUT = 0.1  # of the sample are cut into pieces of words by another program
_CUTS = {  # the mark: how a text that is cut looks, and how to join its pieces; a diff has @@ as a word
    "`@@ ` of subword-nmt": (re.compile(r"[^\s@]@@(?: |$)"), "sed -r 's/@@( |$)//g'"),
    "`▁` of SentencePiece": (re.compile(r"(?:^| )▁\w"), "sed 's/ //g; s/▁/ /g; s/^ //'"),
}
_ENOUGH = 100  # pairs from which one text repeated is no accident

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One line of the report, with the figures in it."""

    level: Level
    text: str


def share(count: int, total: int) -> str:
    """A count with its percentage."""
    percent = 100 * count / max(total, 1)
    return f"{count:,} ({percent:.1f} %)" if percent >= 0.1 else f"{count:,} ({percent:.1g} %)"


def corpus_findings(
    stream: PairStream, survey: Survey, summary: CorpusSummary, *, max_length: int | None
) -> Iterator[Finding]:
    """What one stream shows."""
    yield from _faults(stream, survey)
    yield from _blanks(stream, survey)
    if survey.pairs == 0:
        if not survey.faults and survey.unreadable is None:
            yield Finding("error", f"{stream.name}: no pair is left to use")
        return
    yield from _same_texts(stream, survey, summary)
    yield from _cuts(survey)
    yield from _alignment(survey, summary)
    yield from _lengths(summary, max_length=max_length)
    for side, tokens, found in (
        ("source", summary.src_tokens, survey.src_tokens),
        ("target", summary.tgt_tokens, survey.tgt_tokens),
    ):
        if tokens is not None and found is not None:
            yield from _tokens(stream.name, side, tokens, found)


def spelling_findings(survey: Survey) -> Iterator[Finding]:
    """Training text that looks like words and their spellings, cut into pieces of words."""
    tokens = survey.src_tokens
    if tokens is None or not 0 < survey.pairs < MANY_PAIRS:
        return
    characters = numbers(survey.src_lengths)
    src, tgt = (float(np.median(lengths)) for lengths in (characters, numbers(survey.tgt_lengths)))
    if max(src, tgt) <= SHORT and characters.sum() > PIECES * numbers(tokens.counts).sum():
        text = f"{survey.name}: short texts (medians {src:.0f} and {tgt:.0f} characters): where the answer is spelled"
        text += " from the letters of the source, data.tokenizer_name=char learns more from few pairs"
        yield Finding("note", text)


def repeat_findings(what: str, summary: DataSummary) -> Iterator[Finding]:
    """Pairs and sources that occur more than once in the training or the validation text."""
    pairs, sources, total = summary.repeated_pairs, summary.repeated_sources, summary.pairs
    if pairs:
        text = f"{what}: {share(pairs, total)} pairs repeat an earlier pair"
        yield Finding("warning" if pairs >= MANY_REPEATED * total else "note", text)
    if sources > pairs:
        yield Finding("note", f"{what}: {share(sources - pairs, total)} pairs give a repeated source another target")


def overlap_findings(train: Sequence[Survey], held_out: Sequence[Survey], what: str) -> Iterator[Finding]:
    """Pairs and sources of the validation or test text that are training text as well."""
    pairs, sources = pair_hashes(held_out), src_hashes(held_out)
    same = np.isin(pairs, pair_hashes(train))
    shared, total = int(same.sum()), len(pairs)
    if total and shared == total:
        text = f"all {total:,} {what} pairs are in the training text too, so they would measure nothing"
        # A test may ask what was learnt by heart.
        yield Finding("error" if what == "validation" else "warning", f"{text}; give other text, or hold some out")
    elif shared:
        text = f"{share(shared, total)} {what} pairs are in the training text too"
        yield Finding("warning" if shared >= MANY_SHARED * total else "note", text)
    known = int((np.isin(sources, src_hashes(train)) & ~same).sum())
    if known:
        text = f"{share(known, total)} {what} sources are in the training text with another target"
        yield Finding("warning" if known >= MANY_SHARED * total else "note", text)


def swap_findings(train: Sequence[Survey], held_out: Sequence[Survey], what: str) -> Iterator[Finding]:
    """Validation or test text whose sources look like the targets of the training text, and the other way round."""
    known, others = ([pair for survey in surveys for pair in survey.beginnings] for surveys in (train, held_out))
    wrong = swapped(known, others)
    if wrong is not None:
        text = f"{what} text: in {100 * wrong:.0f} % of a sample of its pairs the source looks like the targets of the"
        yield Finding("warning", f"{text} training text, and the target like the sources: are the two sides swapped?")


def _faults(stream: PairStream, survey: Survey) -> Iterator[Finding]:
    for fault in survey.shown_faults:
        yield Finding("error", str(fault))
    for kind, count in survey.faults.items():
        if count > SHOWN_FAULTS:
            yield Finding("error", f"{stream.name}: {count - SHOWN_FAULTS:,} more faults of this kind ({kind})")
    if survey.unreadable is not None:
        yield Finding("error", str(survey.unreadable))
    if isinstance(stream, TextSource):
        try:
            remarks = stream.remarks()
        except Fault:  # already found above
            return
        yield from (Finding("note", remark) for remark in remarks)


def _blanks(stream: PairStream, survey: Survey) -> Iterator[Finding]:
    blank = survey.blank.total()
    if not blank:
        return
    kinds = ", ".join(f"{survey.blank[side]:,} {side}" for side in ("source", "target", "both") if survey.blank[side])
    total = blank + survey.pairs
    text = f"{stream.name}: {share(blank, total)} pairs have a blank side ({kinds})"
    text += f", the first in line {survey.first_blank}"
    if isinstance(stream, TextSource) and stream.on_blank == "error":
        yield Finding("error", f"{text}; write the missing texts, or leave such pairs out with data.on_blank=drop")
    else:
        yield Finding("warning" if blank > MANY_DROPPED * total else "note", f"{text}; they are left out")


def _same_texts(stream: PairStream, survey: Survey, summary: CorpusSummary) -> Iterator[Finding]:
    if isinstance(stream, TextSource) and len(stream.paths) == 2 and stream.paths[0].samefile(stream.paths[1]):
        yield Finding("error", f"{stream.name}: both sides are the same file")
        return
    for side, hashes in (("source", survey.src_hashes), ("target", survey.tgt_hashes)):
        if survey.pairs >= _ENOUGH and numbers(hashes).min() == numbers(hashes).max():
            yield Finding("error", f"{stream.name}: all {survey.pairs:,} {side} texts are the same")
    if summary.identical_sides:
        text = f"{stream.name}: {share(summary.identical_sides, survey.pairs)} pairs have the same text on both sides"
        yield Finding("warning" if summary.identical_sides >= MANY_IDENTICAL * survey.pairs else "note", text)


def _cuts(survey: Survey) -> Iterator[Finding]:
    for place, side in enumerate(("source", "target")):
        for mark, (pattern, command) in _CUTS.items():
            cut = sum(pattern.search(pair[place]) is not None for pair in survey.beginnings)
            if cut > MANY_CUT * len(survey.beginnings):
                text = f"{survey.name}: {share(cut, len(survey.beginnings))} of a sample of {side} texts are cut into"
                text += f" pieces, with {mark}: train on the raw text, or join them: {command}"
                yield Finding("warning", text)


def _alignment(survey: Survey, summary: CorpusSummary) -> Iterator[Finding]:
    if survey.pairs < BLOCK or summary.length_correlation is None:
        return
    if summary.length_correlation < MISALIGNED:
        text = f"the lengths of the two sides do not go together (correlation {summary.length_correlation:.2f})"
        text += ", as when the lines of one side are out of order; look at some pairs"
        yield Finding("warning", f"{survey.name}: {text}")
        return
    blocks = misaligned_blocks(numbers(survey.src_lengths), numbers(survey.tgt_lengths))
    if blocks:
        text = f"in {share(len(blocks), survey.pairs // BLOCK)} of its blocks of {BLOCK:,} pairs the lengths of the two"
        text += " sides do not go together, as when one side has lost a line and gained another; the first of these"
        first, last = survey.lines[blocks[0]], survey.lines[blocks[0] + BLOCK - 1]
        yield Finding("warning", f"{survey.name}: {text} is in lines {first} to {last}")


def _lengths(summary: CorpusSummary, *, max_length: int | None) -> Iterator[Finding]:
    ratio = summary.token_ratio or summary.char_ratio
    if ratio is not None and ratio.far:
        unit = "tokens" if summary.token_ratio else "characters"
        text = f"{share(ratio.far, summary.pairs)} pairs have a length ratio in {unit} over {FAR_RATIO:g} times away"
        text += f" from the median, {ratio.median:.2f}"
        yield Finding("warning" if ratio.far > MANY_FAR * summary.pairs else "note", f"{summary.name}: {text}")
    if max_length is None or not summary.over_long:
        return
    text = f"{summary.name}: {share(summary.over_long, summary.pairs)} pairs are over max_length ({max_length} tokens)"
    if summary.over_long == summary.pairs:
        yield Finding("error", f"{text}, so none is left; raise max_length")
    else:
        many = summary.over_long > MANY_DROPPED * summary.pairs
        yield Finding("warning" if many else "note", f"{text} and are left out")


def _tokens(name: str, side: str, tokens: TokenSummary, found: SideTokens) -> Iterator[Finding]:
    if tokens.unknown_share > UNKNOWN_WARNING:
        level: Level = "error" if tokens.unknown_share > UNKNOWN_ERROR else "warning"
        text = f"{100 * tokens.unknown_share:.1f} % of the {side} tokens are unknown to the tokenizer"
        yield Finding(level, f"{name}: {text}; was it made for this language and script?")
    if found.changed:
        before, after = found.changed[0]
        text = f"{share(len(found.changed), found.tried)} of a sample of {side} texts are changed by encoding and"
        text += f" decoding: {before[:60]!r} becomes {after[:60]!r}"
        yield Finding("warning" if len(found.changed) > MANY_CHANGED * found.tried else "note", f"{name}: {text}")
