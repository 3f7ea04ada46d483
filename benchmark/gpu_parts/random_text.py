"""Pairs of random token ids whose lengths and frequencies are like those of real text, in batches of three layouts.

Lengths are log-normal with a mean of about 25 tokens, the two sides alike; the ids follow Zipf's law, since the
backward pass of an embedding depends on how often an id is met.
"""

import dataclasses
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.race.workload import fitted
from pytorch_dl.dataset.batching import Batch, Special, TokenIds, collate
from pytorch_dl.dataset.bucketing import Ints
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.planning import Lengths, Plan, Planner

Layout = Literal["packed", "bucketed", "random"]
SPECIAL = Special(pad_id=0, bos_id=1, eos_id=2)
FIRST_ID = 3  # of text
LONGEST = 128  # with the token that batching adds
MEAN, SPREAD = 25.0, 0.6  # of the lengths; the spread is that of their logarithm
SIDES_DIFFER = 0.2  # spread of the logarithm of target length / source length
EPOCH = 24  # times the batches that are taken, so that there are enough pairs of like lengths
SEED = 1


@cache
def batches(layout: Layout, *, tokens: int, count: int, vocabulary: int, longest: int = LONGEST) -> list[Batch]:
    """Batches of an epoch with about `tokens` real target tokens each; packed ones have so many positions.

    Of bucketed ones, which differ in size, those are taken that come nearest.
    """
    wanted = (EPOCH if layout == "bucketed" else 1) * (count + 1) * tokens
    src, tgt = random_pairs(pairs_for(wanted), vocabulary=vocabulary, longest=longest)
    lengths = Lengths(np.diff(src.offsets) + 1, np.diff(tgt.offsets) + 1)
    planner, pairs = _planner(layout, lengths, tokens), round(tokens / float(lengths.tgt.mean()))
    if layout == "packed":
        planner = _filling(planner, count)
    elif layout == "bucketed":
        planner = fitted(planner, pairs)
    plan = planner.plan(0)
    chosen = _nearest(plan, lengths.tgt, tokens) if layout == "bucketed" else np.arange(len(plan))
    return [collate(plan, int(index), src, tgt, SPECIAL) for index in chosen[:count]]


def loader(*, tokens: int, count: int, vocabulary: int, longest: int = LONGEST) -> BatchLoader:
    """Of about `count` random batches of about `tokens` real target tokens each: for who makes batches of its own."""
    src, tgt = random_pairs(pairs_for(count * tokens), vocabulary=vocabulary, longest=longest)
    lengths = Lengths(np.diff(src.offsets) + 1, np.diff(tgt.offsets) + 1)
    planner, sizes = _planner("random", lengths, tokens), (vocabulary, vocabulary)
    return BatchLoader(planner, src, tgt, SPECIAL, vocab_sizes=sizes, workers=0, prefetch=1, pin_memory=False)


def pairs_for(tokens: int) -> int:
    """How many pairs hold about so many tokens on one side."""
    return max(2, round(tokens / MEAN))


def random_pairs(pairs: int, *, vocabulary: int, longest: int = LONGEST) -> tuple[TokenIds, TokenIds]:
    """Token ids of both sides, a function of the arguments."""
    rng = np.random.default_rng(SEED)
    mean = min(MEAN, longest / 4)
    src = np.exp(rng.normal(np.log(mean) - SPREAD**2 / 2, SPREAD, pairs))
    tgt = src * np.exp(rng.normal(0.0, SIDES_DIFFER, pairs))
    source, target = (_ids(rng, length, vocabulary=vocabulary, longest=longest) for length in (src, tgt))
    return source, target


def _ids(rng: np.random.Generator, length: NDArray[np.float64], *, vocabulary: int, longest: int) -> TokenIds:
    lengths = np.clip(np.rint(length) - 1, 1, longest - 1).astype(np.int64)
    offsets: Ints = np.concatenate(([0], np.cumsum(lengths)))
    ranks = (vocabulary - FIRST_ID) ** rng.random(offsets[-1]) - 1  # log-uniform: rank r is met in proportion to 1 / r
    return TokenIds((FIRST_ID + ranks).astype(np.uint32), offsets)


def _planner(layout: Layout, lengths: Lengths, tokens: int) -> Planner:
    pairs = len(lengths.src)
    size = round(tokens / float(lengths.tgt.mean())) if layout == "random" else None
    return Planner(
        lengths,
        np.arange(pairs),
        [(0, pairs, 1.0)],
        seed=SEED,
        max_tokens=tokens,
        batch_size=size,
        packed=layout == "packed",
    )


def _nearest(plan: Plan, lengths: Ints, tokens: int) -> Ints:
    """The batches of a padded plan, those first that hold nearly so many tokens of these lengths."""
    held = np.add.reduceat(lengths[plan.pairs], plan.batch_starts[:-1])
    order: Ints = np.abs(held - tokens).argsort(kind="stable")
    return order


def _filling(planner: Planner, count: int) -> Planner:
    """With as many pairs as fill `count` batches: a real epoch has hundreds, in which a last one is no matter."""
    plan = planner.plan(0)
    assert plan.rows_per_batch is not None
    rows = len(plan.row_starts) - 1
    pairs = min(len(planner.kept), int(len(planner.kept) * count * plan.rows_per_batch / rows))
    while True:
        planner = dataclasses.replace(planner, kept=planner.kept[:pairs], corpora=[(0, pairs, 1.0)])
        if len(planner.plan(0)) <= count:
            return planner
        pairs -= max(1, pairs // 500)
