import random
from dataclasses import dataclass

import numpy as np
import pytest

from pytorch_dl.dataset.split import _choose, hold_out
from pytorch_dl.dataset.text_files import PairStream, TextPair
from pytorch_dl.errors import DataError


@dataclass(frozen=True)
class Pairs:
    name: str
    pairs: tuple[tuple[str, str], ...]
    weight: float = 1.0
    dropped: int = 0

    def __iter__(self):
        return (TextPair(src, tgt, line) for line, (src, tgt) in enumerate(self.pairs, 1))

    def fingerprint(self):
        return self.name


def corpus(name, count, *, seed=0, sources=10**9, weight=1.0):
    rng = random.Random(seed)
    return Pairs(name, tuple((f"s{rng.randrange(sources)}", f"t{i}") for i in range(count)), weight)


def test_every_pair_is_on_one_side_and_no_source_on_both():
    streams = [corpus("a", 700, sources=400, weight=2.0), corpus("b", 500, seed=1, sources=400)]
    train, val = hold_out(streams, count=123, seed=5)
    held = list(val)
    assert len(held) == 123 and val.weight == 1.0
    assert [side.weight for side in train] == [2.0, 1.0]
    assert {pair.src for pair in held}.isdisjoint(pair.src for side in train for pair in side)
    for stream, side in zip(streams, train, strict=True):
        held_here = [pair for pair in stream if pair in set(held)]
        assert sorted([*side, *held_here]) == sorted(stream)
        assert [pair.line for pair in side] == sorted(pair.line for pair in side)
    assert len(held) + sum(len(list(side)) for side in train) == 1200
    assert {pair.src for pair in held} & {pair.src for pair in streams[0]} & {pair.src for pair in streams[1]}


def test_the_choice_is_the_same_in_every_run_and_another_for_another_seed():
    stream: PairStream = corpus("a", 300)
    sides = [hold_out([stream], count=30, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (list(val) for _, val in sides)
    assert first == again == list(sides[0][1]) and first != other
    assert [pair.line for pair in first][:5] == [1, 5, 6, 11, 12]  # fixed for ever: a resumed run must not change sides
    prints = [side.fingerprint() for train, val in sides for side in (*train, val)]
    assert prints[:2] == prints[2:4] and len(set(prints)) == 4


def test_growing_the_corpus_moves_few_pairs():
    small, large = (tuple(f"s{i}" for i in range(count)) for count in (1000, 1010))
    held = [
        {pair.src for pair in hold_out([Pairs("x", tuple((s, s) for s in side))], count=100, seed=0)[1]}
        for side in (small, large)
    ]
    assert len(held[0] & held[1]) >= 90


def test_sides_are_a_fair_sample():
    _, val = hold_out([corpus("a", 20_000)], count=2000, seed=3)
    lines = np.array([pair.line for pair in val])
    assert abs(lines.mean() - 10_000) < 500


@pytest.mark.parametrize(
    ("sizes", "count", "best"),
    [([3, 2, 2], 4, 4), ([5, 5, 5], 12, 10), ([2] * 50, 7, 6), ([9, 9, 1, 1], 3, 2), ([7, 3, 3, 3], 9, 9), ([4], 3, 0)],
)
def test_choice_of_groups(sizes, count, best):
    chosen = _choose(np.array(sizes), count=count)
    assert sum(sizes[i] for i in chosen) == best and len(set(chosen)) == len(chosen)


def test_choice_of_groups_equals_brute_force():
    rng = random.Random(0)
    for _ in range(300):
        sizes = [rng.randrange(2, 12) for _ in range(rng.randrange(1, 9))]
        count = rng.randrange(1, sum(sizes) + 1)
        sums = {0}
        for size in sizes:
            sums |= {total + size for total in sums}
        chosen = _choose(np.array(sizes), count=count)
        assert len(set(chosen)) == len(chosen)
        assert sum(sizes[i] for i in chosen) == max(total for total in sums if total <= count)


@pytest.mark.parametrize("count", [0, 10, 11, -1])
def test_more_than_there_is_cannot_be_held_out(count):
    with pytest.raises(
        DataError, match=rf"^a: cannot hold out {count} of 10 pairs\. Fix: hold out between 1 and 9 pairs"
    ):
        hold_out([corpus("a", 10)], count=count, seed=0)


def test_groups_that_are_all_too_large():
    with pytest.raises(DataError, match="cannot hold out 3 pairs: each source text occurs at least 5 times"):
        hold_out([Pairs("a", (("x", "1"), ("y", "2")) * 5)], count=3, seed=0)
