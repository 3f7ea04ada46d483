"""Buckets: a partition within the budget, that wastes little on lengths like those of real text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytorch_dl.dataset import bucketing
from pytorch_dl.dataset.bucketing import bucket_by_length
from pytorch_dl.dataset.planning import Lengths, Planner

from .lengths import lognormal_lengths, multi30k_lengths

sides = st.lists(st.tuples(st.integers(1, 25), st.integers(1, 25)), min_size=0, max_size=60)


@given(sides, st.integers(25, 120))
def test_a_partition_within_the_budget(pairs: list[tuple[int, int]], max_tokens: int) -> None:
    src, tgt = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    groups = bucket_by_length(src, tgt, max_tokens)
    assert sorted(i for group in groups for i in group.tolist()) == list(range(len(pairs)))
    for group in groups:
        assert len(group) * max(src[group].max(), tgt[group].max()) <= max_tokens


def test_pools_are_cut_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucketing, "POOL", 10)
    src = np.arange(1, 36) % 7 + 1
    groups = bucket_by_length(src, src, 1000)
    assert [sorted(group.tolist()) for group in groups] == [list(range(i, min(i + 10, 35))) for i in (0, 10, 20, 30)]


def test_a_pair_that_fits_nowhere_is_our_own_bug() -> None:
    with pytest.raises(AssertionError, match="must have been filtered out"):
        bucket_by_length(np.array([9]), np.array([2]), 8)


def efficiency(lengths: Lengths, *, packed: bool) -> float:
    pairs = len(lengths.src)
    planner = Planner(lengths, np.arange(pairs), [(0, pairs, 1.0)], seed=1, max_tokens=4096, packed=packed)
    return planner.plan(0).efficiency


@pytest.mark.parametrize("packed", [False, True], ids=["bucketed", "packed"])
def test_synthetic_text_fills_batches(packed: bool) -> None:
    assert efficiency(lognormal_lengths(29_000), packed=packed) >= 0.97


@pytest.mark.parametrize("packed", [False, True], ids=["bucketed", "packed"])
def test_multi30k_fills_batches(packed: bool) -> None:
    assert efficiency(multi30k_lengths(), packed=packed) >= 0.97


def test_sorting_by_the_source_alone_wastes_more() -> None:
    lengths = lognormal_lengths(29_000)
    order = np.argsort(lengths.src, kind="stable")
    positions = real = start = 0
    while start < len(order):
        stop = start + 1
        while (
            stop < len(order)
            and (stop + 1 - start)
            * max(lengths.src[order[start : stop + 1]].max(), lengths.tgt[order[start : stop + 1]].max())
            <= 4096
        ):
            stop += 1
        part = order[start:stop]
        positions += len(part) * (lengths.src[part].max() + lengths.tgt[part].max())
        real += lengths.src[part].sum() + lengths.tgt[part].sum()
        start = stop
    assert real / positions < efficiency(lengths, packed=False) - 0.01
