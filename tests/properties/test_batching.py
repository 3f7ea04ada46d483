"""Batches of any pairs: each pair once, within the budget, and the same whoever prepares or takes them."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plans import LONGEST, Pairs, batches_of, layouts, length_pairs, planner
from tiny import tiny_loader

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.training.peers import Peers


def drawn(batches: list[Batch]) -> Counter[int]:
    return Counter(i for batch in batches for i in batch.pair_ids.flatten().tolist() if i >= 0)


@given(length_pairs, layouts, st.integers(0, 3))
def test_each_kept_pair_is_in_an_epoch_once(pairs: Pairs, layout: str, epoch: int) -> None:
    kept = np.arange(0, len(pairs), 2)
    assert drawn(batches_of(planner(pairs, layout, kept=kept), epoch)) == Counter(kept.tolist())


@given(length_pairs, st.sampled_from(["bucketed", "packed"]), st.integers(LONGEST, 200))
def test_no_batch_is_above_the_budget_padding_included(pairs: Pairs, layout: str, max_tokens: int) -> None:
    for batch in batches_of(planner(pairs, layout, max_tokens=max_tokens)):
        assert max(batch.src.numel(), batch.tgt_in.numel()) <= max_tokens


@given(length_pairs, layouts)
def test_efficiency_is_what_one_counts(pairs: Pairs, layout: str) -> None:
    made = planner(pairs, layout)
    batches = batches_of(made)
    tokens = sum(int((s > 0).sum()) for batch in batches for s in (batch.src_segments, batch.tgt_segments))
    assert tokens == sum(src + tgt for src, tgt in pairs)
    assert tokens == sum(batch.num_src_tokens + batch.num_tgt_tokens for batch in batches)
    assert made.plan(0).efficiency == pytest.approx(tokens / sum(batch.num_positions for batch in batches), rel=1e-12)


@given(length_pairs, layouts, st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_a_plan_is_a_function_of_seed_and_epoch(pairs: Pairs, layout: str, seed: int, epoch: int) -> None:
    fresh = planner(pairs, layout, seed=seed).plan(epoch)
    used = planner(pairs, layout, seed=seed)
    used.plan(epoch + 1)
    again = used.plan(epoch)
    for name in ("pairs", "row_starts", "batch_starts"):
        np.testing.assert_array_equal(getattr(fresh, name), getattr(again, name))
    assert (fresh.widths, fresh.rows_per_batch, fresh.efficiency) == (
        again.widths,
        again.rows_per_batch,
        again.efficiency,
    )


@given(
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
    packed=st.booleans(),
    workers=st.integers(0, 3),
    processes=st.integers(1, 8),
    epoch=st.integers(0, 2),
)
def test_neither_threads_nor_processes_change_a_batch(
    count: int, seed: int, packed: bool, workers: int, processes: int, epoch: int
) -> None:
    expected = list(tiny_loader(count, seed=seed, packed=packed).batches(epoch))
    shares = [
        list(
            tiny_loader(count, seed=seed, packed=packed, workers=workers).share(
                epoch, 0, Peers(rank, processes).is_mine
            )
        )
        for rank in range(processes)
    ]
    for number, (batch, *others) in enumerate(zip(expected, *shares, strict=True)):
        (found,) = [other for other in others if other is not None]
        assert others[number % processes] is found
        for name, value in vars(batch).items():
            same = torch.equal if isinstance(value, torch.Tensor) else int.__eq__
            assert same(value, getattr(found, name)), name
