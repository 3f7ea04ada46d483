"""The data check: reads the text once before anything is trained on it, counts, and says what is wrong with it.

Two files are enough; with tokenizers it also looks at tokens, with validation and test text at what they share with the
training text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytorch_dl.dataset.findings import (
    Finding,
    corpus_findings,
    overlap_findings,
    repeat_findings,
    share,
    spelling_findings,
    swap_findings,
)
from pytorch_dl.dataset.summary import CorpusSummary, DataSummary, Ratio, TokenSummary, summarize
from pytorch_dl.dataset.survey import Survey, survey
from pytorch_dl.dataset.text_files import PairStream

if TYPE_CHECKING:  # a check without tokenizers does not load their library
    from pytorch_dl.dataset.tokenizer import TokenizerPair


@dataclass(frozen=True)
class CheckReport:
    """What the text holds, and what was found in it, errors first."""

    train: DataSummary
    val: DataSummary | None
    test: DataSummary | None
    findings: tuple[Finding, ...]
    held_out: int = 0
    """Pairs of the training text that are the validation text, and not trained on."""

    @property
    def errors(self) -> list[str]:
        """What would train garbage, or stop the training."""
        return [finding.text for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[str]:
        """What is worth a look."""
        return [finding.text for finding in self.findings if finding.level == "warning"]

    def lines(self) -> list[str]:
        """The report for people."""
        held_out = f", with the {self.held_out:,} pairs that are held out" if self.held_out else ""
        lines = _data_lines(f"Training text{held_out}", self.train)
        if self.val is not None:
            lines += _data_lines("Validation text", self.val)
        if self.test is not None:
            lines += _data_lines("Test text", self.test)
        lines += [f"{finding.level:<7}  {finding.text}" for finding in self.findings]
        return [*lines, f"{_count(len(self.errors), 'error')}, {_count(len(self.warnings), 'warning')}"]

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def check(
    train: Sequence[PairStream],
    val: Sequence[PairStream] | None = None,
    test: Sequence[PairStream] | None = None,
    *,
    tokenizers: "TokenizerPair | None" = None,
    max_length: int | None = None,
) -> CheckReport:
    """Read the text once and report on it; `max_length` is in tokens with the end mark, and needs tokenizers."""
    findings: list[Finding] = []
    surveys: dict[str, list[Survey]] = {}
    summaries: dict[str, DataSummary] = {}
    for what, streams in (("training", train), ("validation", val), ("test", test)):
        if not streams:
            continue
        surveys[what] = [survey(stream, tokenizers=tokenizers) for stream in streams]
        summaries[what] = summarize(surveys[what], max_length=max_length)
        findings += _stream_findings(streams, surveys[what], summaries[what], max_length=max_length)
        findings += repeat_findings(f"{what} text", summaries[what])
        if what == "training":
            findings += [finding for found in surveys[what] for finding in spelling_findings(found)]
        else:
            findings += overlap_findings(surveys["training"], surveys[what], what)
            findings += swap_findings(surveys["training"], surveys[what], what)
    levels = ("error", "warning", "note")
    by_level = tuple(sorted(findings, key=lambda finding: levels.index(finding.level)))
    return CheckReport(summaries["training"], summaries.get("validation"), summaries.get("test"), by_level)


def _stream_findings(
    streams: Sequence[PairStream], surveys: Sequence[Survey], summary: DataSummary, *, max_length: int | None
) -> Iterator[Finding]:
    for stream, found, corpus in zip(streams, surveys, summary.corpora, strict=True):
        yield from corpus_findings(stream, found, corpus, max_length=max_length)


def _data_lines(title: str, data: DataSummary) -> list[str]:
    lines = [title]
    for corpus in data.corpora:
        lines.append(f"  {corpus.name}")
        lines += [f"    {label:<22}{value}" for label, value in _corpus_rows(corpus)]
    lines.append(f"  {'repeated pairs':<24}{share(data.repeated_pairs, data.pairs)}")
    return [*lines, f"  {'repeated sources':<24}{share(data.repeated_sources, data.pairs)}"]


def _corpus_rows(corpus: CorpusSummary) -> Iterator[tuple[str, str]]:
    yield "pairs", f"{corpus.pairs:,}"
    yield "blank", ", ".join(f"{count:,} {side}" for side, count in corpus.blank.items()) or "0"
    if corpus.faults:
        yield "faults", ", ".join(f"{count:,} {kind}" for kind, count in corpus.faults.items())
    yield "same on both sides", share(corpus.identical_sides, corpus.pairs)
    if corpus.length_correlation is not None:
        yield "length correlation", f"{corpus.length_correlation:.2f}"
    yield from _ratio_rows("target/source chars", corpus.char_ratio)
    yield from _ratio_rows("target/source tokens", corpus.token_ratio)
    yield from _token_rows("source tokens", corpus.src_tokens)
    yield from _token_rows("target tokens", corpus.tgt_tokens)


def _ratio_rows(label: str, ratio: Ratio | None) -> Iterator[tuple[str, str]]:
    if ratio is not None:
        yield (
            label,
            f"median {ratio.median:.2f}, 98 % between {ratio.low:.2f} and {ratio.high:.2f}, {ratio.far:,} far off",
        )


def _token_rows(label: str, tokens: TokenSummary | None) -> Iterator[tuple[str, str]]:
    if tokens is not None:
        yield label, f"mean {tokens.mean:.1f}, longest {tokens.longest}, unknown {100 * tokens.unknown_share:.2f} %"
        yield from (("", sample) for sample in tokens.samples)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
