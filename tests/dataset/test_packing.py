"""Packing: rows that hold each pair once, within their widths and nearly full."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytorch_dl.dataset import packing
from pytorch_dl.dataset.packing import Widths, pack_rows

sides = st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25)), min_size=1, max_size=60)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    src, tgt = np.array(pairs, dtype=np.int64).T
    return src, tgt


@given(sides, st.integers(0, 15), st.integers(0, 15))
def test_each_pair_is_in_one_row_and_no_row_overflows(
    pairs: list[tuple[int, int]], more_src: int, more_tgt: int
) -> None:
    src, tgt = columns(pairs)
    widths = Widths(int(src.max()) + more_src, int(tgt.max()) + more_tgt)
    rows = pack_rows(src, tgt, widths)
    assert sorted(i for row in rows for i in row.tolist()) == list(range(len(pairs)))
    for row in rows:
        assert src[row].sum() <= widths.src
        assert tgt[row].sum() <= widths.tgt


def test_pools_are_packed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "POOL", 8)
    src = np.arange(20) % 5 + 1
    rows = pack_rows(src, src, Widths(10, 10))
    assert sorted(i for row in rows for i in row.tolist()) == list(range(20))
    assert all(len({i // 8 for i in row.tolist()}) == 1 for row in rows)


def test_the_best_fit_is_found() -> None:
    """A row of 12 begun with 9 takes the 3, not the 2 that comes first."""
    rows = pack_rows(*columns([(9, 9), (2, 2), (3, 3)]), Widths(12, 12))
    assert [row.tolist() for row in rows] == [[0, 2], [1]]


def test_two_pairs_that_fill_a_row_are_found() -> None:
    """A row of 12 begun with 5 takes 4 and 3, though 6 is the best single one."""
    rows = pack_rows(*columns([(5, 5), (6, 6), (4, 4), (3, 3), (8, 8)]), Widths(12, 12))
    assert [row.tolist() for row in rows] == [[0, 2, 3], [1], [4]]


def test_rows_are_filled_even_with_uncorrelated_lengths() -> None:
    rng = np.random.default_rng(1)
    src, tgt = rng.integers(2, 40, 2000), rng.integers(2, 40, 2000)
    widths = Widths.fitting(src, tgt, 4096)
    rows = pack_rows(src, tgt, widths)
    assert (src.sum() + tgt.sum()) / (len(rows) * sum(widths)) > 0.97


def test_the_order_decides_who_shares_a_row() -> None:
    rng = np.random.default_rng(1)
    src = rng.integers(2, 20, 200)
    first, second = (
        {frozenset(order[row].tolist()) for row in pack_rows(src[order], src[order], Widths(128, 128))}
        for order in (np.arange(200), rng.permutation(200))
    )
    assert len(first & second) < len(first) / 4


@pytest.mark.parametrize(
    ("src", "tgt", "max_tokens", "expected"),
    [
        ([10, 20], [10, 20], 4096, (64, 64)),
        ([10, 10], [20, 20], 4096, (32, 64)),
        ([98, 100], [100, 102], 4096, (112, 112)),
        ([80, 80], [100, 100], 4096, (92, 112)),
        ([10, 10, 61], [50, 50, 50], 4096, (61, 64)),
        ([10, 300], [10, 200], 4096, (304, 208)),
        ([10, 20], [20, 30], 60, (36, 60)),
    ],
    ids=[
        "equal sides",
        "half as long",
        "nearly equal",
        "no multiple of 16",
        "the longest fits",
        "longer than the usual row",
        "a small budget",
    ],
)
def test_widths(src: list[int], tgt: list[int], max_tokens: int, expected: tuple[int, int]) -> None:
    assert Widths.fitting(np.array(src), np.array(tgt), max_tokens) == expected


@given(sides, st.integers(25, 300))
def test_widths_hold_the_longest_pair_within_the_budget(pairs: list[tuple[int, int]], max_tokens: int) -> None:
    src, tgt = columns(pairs)
    widths = Widths.fitting(src, tgt, max_tokens)
    assert src.max() <= widths.src <= max_tokens
    assert tgt.max() <= widths.tgt <= max_tokens


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=60),
    st.randoms(use_true_random=False),
)
def test_what_is_left_is_known_after_each_pair(pairs: list[tuple[int, int]], draw: Random) -> None:
    """The tables that are mended are those that would be made anew."""
    src, tgt = np.array(pairs).T
    stock = packing._Stock(src, tgt, Widths(14, 13))
    while stock.left:
        stock._take(draw.choice(list(stock.left)))
        single = np.zeros_like(stock.single)
        for lengths in stock.left:
            single[lengths] = 2 * (src.max() + tgt.max()) * sum(lengths)
        assert np.array_equal(stock.fill, np.maximum.accumulate(np.maximum.accumulate(single, 0), 1))
        present = {tuple(map(int, place)) for place in np.argwhere(stock.alone > 0)}
        assert present == set(stock.left)
