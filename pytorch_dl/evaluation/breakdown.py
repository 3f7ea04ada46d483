"""How good translations are of which sources: short and long ones, ones with common and with rare words.

A bucket's scores come from the same statistics of lines as those of the whole text: nothing is scored anew.
"""

import itertools
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytorch_dl.evaluation.metrics import bleu_is_defined
from pytorch_dl.scoring.bootstrap import Interval, intervals
from pytorch_dl.scoring.names import BLEU
from pytorch_dl.scoring.score import Score

BUCKETS = 5  # by length, of about as many lines each
LINES = 10  # that such a bucket has at least
FREQUENCIES = (0, 1, 9, 99, 999)  # the last of each bucket but the last one
AROUND_WORDS = string.punctuation + "„“”‘’‚«»‹›…–—¡¿·、。，．！？；：（）「」『』"  # quotes, dashes, marks
AT_ONCE = 10_000  # texts whose words are counted together
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
    return [found for part in _parts(text, unit) if (found := _bare(part, unit))]


def frequencies(sources: Sequence[str], texts: Iterable[str]) -> Counter[str]:
    """How often each word (or character) of the sources occurs in texts, which may be larger than the memory."""
    unit = unit_of(sources)
    wanted = {one for source in sources for one in units(source, unit)}
    counts: Counter[str] = Counter()
    left = iter(texts)
    while some := list(itertools.islice(left, AT_ONCE)):
        raw = Counter(itertools.chain.from_iterable(_parts(text, unit) for text in some))
        for part, count in raw.items():  # equal ones are looked at once: most words are common
            if (found := _bare(part, unit)) in wanted:
                counts[found] += count
    return counts


def _parts(text: str, unit: str) -> Iterable[str]:
    return text.lower().split() if unit == "words" else text


def _bare(part: str, unit: str) -> str:
    return part.strip(AROUND_WORDS if unit == "words" else None)


def by_length(sources: Sequence[str], scores: Sequence[Score]) -> Breakdown:
    """Scores by the length of the source, in buckets of about as many lines each."""
    unit = unit_of(sources)
    lengths = np.array([len(source.split() if unit == "words" else source) for source in sources])
    parts = max(1, min(BUCKETS, len(lengths) // LINES))
    bounds = np.unique(np.quantile(lengths, np.arange(1, parts) / parts, method="lower")).tolist()
    return Breakdown("source length", unit, None, _buckets(lengths, bounds, scores))


def by_rarest(
    sources: Sequence[str], scores: Sequence[Score], *, counts: Mapping[str, int], counted_in: str
) -> Breakdown:
    """Scores by how often the rarest word of the source occurs in a text: `counts` are the `frequencies` there."""
    unit = unit_of(sources)
    rarest = np.array([min((counts.get(one, 0) for one in units(source, unit)), default=0) for source in sources])
    buckets = _buckets(rarest, FREQUENCIES, scores)
    return Breakdown(f"frequency of the rarest source {unit[:-1]}", unit, counted_in, buckets)


def _buckets(numbers: Numbers, bounds: Sequence[int], scores: Sequence[Score]) -> list[Bucket]:
    """Buckets of lines by their numbers; each bound is the last number of its bucket."""
    places = np.searchsorted(np.array(bounds, dtype=np.int64), numbers)
    found = []
    for place in np.unique(places).tolist():
        lines = np.flatnonzero(places == place)
        parts = [score.of(lines) for score in scores]
        parts = [part for part in parts if part.name != BLEU or bleu_is_defined(part)]
        low = bounds[place - 1] + 1 if place else 0
        high = bounds[place] if place < len(bounds) else None
        found.append(Bucket(low, high, len(lines), list(zip(parts, intervals(parts), strict=True))))
    return found
