"""Which way round pairs are: whether their sources look like the sources of the training text, or like its targets.

By characters and runs of three that are more frequent on one side of the training text, as languages are told apart.
How well that works, training pairs that were not counted show: where both sides are alike, it does not.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence

Pair = tuple[str, str]  # source and target, or their beginnings
FEWEST_TRAIN, FEWEST = 100, 20  # pairs, below which nothing is told
MOST = 600
TOLD, ODD = 0.5, 0.02  # shares of training pairs that must look the right way round, and that may look the other way
CLEAR = 0.75  # share of the others that must look the other way round
_SEEN = 0.5  # added to each count, so that what one side never has is not impossible there


def swapped(train: Sequence[Pair], others: Sequence[Pair]) -> float | None:
    """The share of the other pairs that are the wrong way round; None where most are not, or it cannot be told."""
    if len(train) < FEWEST_TRAIN or len(others) < FEWEST:
        return None
    draw = random.Random(0)
    known, tried = draw.sample(train, min(MOST, len(train))), draw.sample(others, min(MOST // 3, len(others)))
    counted = 2 * len(known) // 3
    weights = _weights(known[:counted])
    right, wrong = _shares(weights, known[counted:])
    if right < TOLD or wrong > ODD:
        return None
    _, wrong = _shares(weights, tried)
    return wrong if wrong >= CLEAR else None


def _weights(pairs: Sequence[Pair]) -> dict[str, float]:
    """How much more frequent each run of characters is in sources than in targets, as a logarithm."""
    src, tgt = (Counter(run for pair in pairs for run in _runs(pair[side])) for side in (0, 1))
    runs = {*src, *tgt}
    src_total, tgt_total = (counts.total() + _SEEN * len(runs) for counts in (src, tgt))
    return {run: math.log((src[run] + _SEEN) / src_total * tgt_total / (tgt[run] + _SEEN)) for run in runs}


def _shares(weights: dict[str, float], pairs: Sequence[Pair]) -> tuple[float, float]:
    """The shares of pairs that are clearly the right and the wrong way round: both sides say so."""
    found = [tuple(sum(weights.get(run, 0.0) for run in _runs(text)) for text in pair) for pair in pairs]
    return sum(src > 0 > tgt for src, tgt in found) / len(found), sum(src < 0 < tgt for src, tgt in found) / len(found)


def _runs(text: str) -> Iterator[str]:
    yield from text
    text = f" {text} "
    yield from (text[start : start + 3] for start in range(len(text) - 2))
