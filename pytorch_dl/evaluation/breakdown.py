"""How good translations are of which sources: short and long ones, ones with common and with rare words.

A bucket's scores come from the same statistics of lines as those of the whole text: nothing is scored anew.
"""

import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytorch_dl.evaluation.metrics import has_four_grams
from pytorch_dl.scoring.bootstrap import Interval, intervals
from pytorch_dl.scoring.score import Score

BUCKETS = 5  # by length, of about as many lines each
LINES = 10  # that such a bucket has at least
FREQUENCIES = (0, 1, 9, 99, 999)  # the last of each bucket but the last one
AROUND_WORDS = string.punctuation + "„“”‘’‚«»‹›…–—¡¿·、。，．！？；：（）「」『』"  # quotes, dashes, marks
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Bucket:
    """The lines whose number (a length, a frequency) is from `low` to `high`, or to any, and their scores."""

    low: int
    high: int | None
    lines: int
    scores: Sequence[tuple[Score, Interval | None]]

    @property
    def label(self) -> str:
        """The range in words."""
        if self.high is None:
            return f"{self.low:,} and more" if self.low else "all"
        if self.low == self.high:
            return f"{self.low:,}"
        return f"{self.low:,} to {self.high:,}" if self.low else f"up to {self.high:,}"


@dataclass(frozen=True)
class Breakdown:
    """Scores by one property of the sources; every line is in one bucket, and no bucket is empty."""

    by: str
    unit: str
    """What lengths and frequencies are of: words, or characters where there are no words."""
    counted_in: str | None
    """Where frequencies were counted."""
    buckets: Sequence[Bucket]


def unit_of(sources: Sequence[str]) -> str:
    """What to tell sources apart by: words, or characters where white space does not make words of them."""
    return "words" if sum(len(source.split()) for source in sources) >= 2 * len(sources) else "characters"


def units(text: str, unit: str) -> list[str]:
    """The words of a text in lower case, without the punctuation around them; or its characters but white space."""
    if unit == "characters":
        return [character for character in text if not character.isspace()]
    return [word for part in text.lower().split() if (word := part.strip(AROUND_WORDS))]


def frequencies(sources: Sequence[str], texts: Iterable[str]) -> Counter[str]:
    """How often each word (or character) of the sources occurs in texts, which may be larger than the memory."""
    unit = unit_of(sources)
    wanted = {one for source in sources for one in units(source, unit)}
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(one for one in units(text, unit) if one in wanted)
    return counts


def by_length(sources: Sequence[str], references: Sequence[str], scores: Sequence[Score]) -> Breakdown:
    """Scores by the length of the source, in buckets of about as many lines each."""
    unit = unit_of(sources)
    lengths = np.array([len(source.split() if unit == "words" else source) for source in sources])
    parts = max(1, min(BUCKETS, len(lengths) // LINES))
    bounds = np.unique(np.quantile(lengths, np.arange(1, parts) / parts, method="lower")).tolist()
    return Breakdown("source length", unit, None, _buckets(lengths, bounds, references, scores))


def by_rarest(
    sources: Sequence[str],
    references: Sequence[str],
    scores: Sequence[Score],
    *,
    counts: Mapping[str, int],
    counted_in: str,
) -> Breakdown:
    """Scores by how often the rarest word of the source occurs in a text: `counts` are the `frequencies` there."""
    unit = unit_of(sources)
    rarest = np.array([min((counts.get(one, 0) for one in units(source, unit)), default=0) for source in sources])
    buckets = _buckets(rarest, FREQUENCIES, references, scores)
    return Breakdown(f"frequency of the rarest source {unit[:-1]}", unit, counted_in, buckets)


def _buckets(
    numbers: Numbers, bounds: Sequence[int], references: Sequence[str], scores: Sequence[Score]
) -> list[Bucket]:
    """Buckets of lines by their numbers; each bound is the last number of its bucket."""
    places = np.searchsorted(np.array(bounds, dtype=np.int64), numbers)
    found = []
    for place in np.unique(places).tolist():
        lines = np.flatnonzero(places == place)
        has_bleu = has_four_grams([references[line] for line in lines.tolist()])
        parts = [score.of(lines) for score in scores if has_bleu or score.name != "BLEU"]
        low = bounds[place - 1] + 1 if place else 0
        high = bounds[place] if place < len(bounds) else None
        found.append(Bucket(low, high, len(lines), list(zip(parts, intervals(parts), strict=True))))
    return found
