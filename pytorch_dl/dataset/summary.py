"""The figures of a data check, computed from surveys: what the report prints and its JSON holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytorch_dl.dataset.alignment import length_correlation
from pytorch_dl.dataset.survey import SideTokens, Survey, numbers

FAR_RATIO = 3.0  # a pair whose length ratio is this many times the median, or the median this many times its own
_FAR_LENGTH = 20  # characters or tokens of the longer side; the ratios of short texts say nothing
_SHOWN_TOKENS = 24


@dataclass(frozen=True)
class Ratio:
    """Target length divided by source length over a corpus, and the number of pairs far from the median."""

    low: float
    median: float
    high: float
    far: int


@dataclass(frozen=True)
class TokenSummary:
    """The tokens of one side; lengths without end mark, `over_long` with it."""

    mean: float
    longest: int
    unknown_share: float
    over_long: int
    round_trips: int
    round_trips_changed: int
    samples: tuple[str, ...]


@dataclass(frozen=True)
class CorpusSummary:
    """One stream; `pairs` can be read and have no blank side, and the figures are over these."""

    name: str
    pairs: int
    blank: dict[str, int]
    faults: dict[str, int]
    identical_sides: int
    length_correlation: float | None
    char_ratio: Ratio | None
    token_ratio: Ratio | None
    over_long: int
    src_tokens: TokenSummary | None
    tgt_tokens: TokenSummary | None


@dataclass(frozen=True)
class DataSummary:
    """All streams of the training or the validation text; repeats count what comes after the first time."""

    corpora: tuple[CorpusSummary, ...]
    pairs: int
    repeated_pairs: int
    repeated_sources: int


def summarize(surveys: Sequence[Survey], *, max_length: int | None) -> DataSummary:
    """Compute the figures of the training or of the validation text."""
    pairs, sources = pair_hashes(surveys), src_hashes(surveys)
    return DataSummary(
        corpora=tuple(_corpus(survey, max_length=max_length) for survey in surveys),
        pairs=len(pairs),
        repeated_pairs=len(pairs) - len(np.unique(pairs)),
        repeated_sources=len(sources) - len(np.unique(sources)),
    )


def src_hashes(surveys: Sequence[Survey]) -> NDArray[np.uint64]:
    """The hashes of all sources."""
    return np.concatenate([numbers(survey.src_hashes).view(np.uint64) for survey in surveys])


def pair_hashes(surveys: Sequence[Survey]) -> NDArray[np.uint64]:
    """The hashes of all pairs, which tell (a, b) from (b, a)."""
    targets: NDArray[np.uint64] = np.concatenate([numbers(survey.tgt_hashes).view(np.uint64) for survey in surveys])
    pairs: NDArray[np.uint64] = src_hashes(surveys) * np.uint64(0x9E3779B97F4A7C15) + targets
    return pairs


def _corpus(survey: Survey, *, max_length: int | None) -> CorpusSummary:
    src, tgt = numbers(survey.src_lengths), numbers(survey.tgt_lengths)
    src_tokens, tgt_tokens = survey.src_tokens, survey.tgt_tokens
    token_ratio, over_long = None, 0
    if src_tokens is not None and tgt_tokens is not None:
        src_counts, tgt_counts = numbers(src_tokens.counts), numbers(tgt_tokens.counts)
        token_ratio = _ratio(src_counts, tgt_counts)
        if max_length is not None:
            over_long = int((np.maximum(src_counts, tgt_counts) + 1 > max_length).sum())
    return CorpusSummary(
        name=survey.name,
        pairs=survey.pairs,
        blank=dict(survey.blank),
        faults={str(kind): count for kind, count in survey.faults.items()},
        identical_sides=int((numbers(survey.src_hashes) == numbers(survey.tgt_hashes)).sum()),
        length_correlation=length_correlation(src, tgt),
        char_ratio=_ratio(src, tgt),
        token_ratio=token_ratio,
        over_long=over_long,
        src_tokens=_tokens(src_tokens, max_length=max_length),
        tgt_tokens=_tokens(tgt_tokens, max_length=max_length),
    )


def _ratio(src: NDArray[np.int32], tgt: NDArray[np.int32]) -> Ratio | None:
    if not len(src):
        return None
    ratio = np.maximum(tgt, 1) / np.maximum(src, 1)
    low, median, high = (float(value) for value in np.percentile(ratio, [1, 50, 99]))
    far = np.abs(np.log(ratio / median)) > np.log(FAR_RATIO)
    return Ratio(low, median, high, int((far & (np.maximum(src, tgt) >= _FAR_LENGTH)).sum()))


def _tokens(side: SideTokens | None, *, max_length: int | None) -> TokenSummary | None:
    if side is None or not side.counts:
        return None
    counts = numbers(side.counts)
    return TokenSummary(
        mean=float(counts.mean()),
        longest=int(counts.max()),
        unknown_share=side.unknown / max(int(counts.sum(dtype=np.int64)), 1),
        over_long=0 if max_length is None else int((counts + 1 > max_length).sum()),
        round_trips=side.tried,
        round_trips_changed=len(side.changed),
        samples=tuple(" | ".join(tokens[:_SHOWN_TOKENS]) for _, tokens in side.shown),
    )
