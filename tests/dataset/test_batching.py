"""Plans and batches of known pairs; their properties on any pairs are in tests/properties."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plans import planner
from tiny import SPECIAL, random_sentences, tiny_loader

from pytorch_dl.dataset.batching import Batch, collate, token_ids_of
from pytorch_dl.errors import ConfigError, DataError


@pytest.mark.parametrize("layout", ["bucketed", "packed", "fixed"])
def test_other_seeds_and_epochs_give_other_orders(layout: str) -> None:
    pairs = [(1 + i % 13, 1 + i % 17) for i in range(100)]
    orders = {
        tuple(planner(pairs, layout, seed=seed).plan(epoch).pairs.tolist()) for seed in (1, 2) for epoch in (0, 1, 2)
    }
    assert len(orders) == 6


class TestWeights:
    pairs = [(5, 6)] * 40

    def epoch(self, corpora: list[tuple[int, int, float]], number: int = 0) -> Counter[int]:
        return Counter(planner(self.pairs, corpora=corpora).plan(number).pairs.tolist())

    def test_of_two(self) -> None:
        assert self.epoch([(0, 30, 2.0), (30, 40, 1.0)]) == {i: 2 if i < 30 else 1 for i in range(40)}

    def test_of_a_half_takes_others_each_epoch(self) -> None:
        epochs = [self.epoch([(0, 30, 1.0), (30, 40, 0.5)], number) for number in range(20)]
        halves = [frozenset(i for i in epoch if i >= 30) for epoch in epochs]
        assert all(len(half) == 5 for half in halves)
        assert all(epoch[i] == 1 for epoch in epochs for i in range(30))
        assert len(set(halves)) > 10
        assert frozenset.union(*halves) == set(range(30, 40))

    def test_of_two_and_a_half(self) -> None:
        epoch = self.epoch([(0, 40, 2.5)])
        assert sorted(epoch.values()) == [2] * 20 + [3] * 20

    def test_only_kept_pairs_are_drawn(self) -> None:
        made = planner(self.pairs, corpora=[(0, 20, 2.0), (20, 40, 1.0)], kept=np.array([3, 30]))
        assert Counter(made.plan(0).pairs.tolist()) == {3: 2, 30: 1}

    def test_too_small_to_draw_one_pair(self) -> None:
        with pytest.raises(DataError, match=r"no pair is drawn for epoch 3\. Fix: raise the weights"):
            self.epoch([(0, 40, 0.001)], 2)


def test_a_pair_above_the_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a pair has 31 tokens, but data\.max_tokens_per_batch is 30"):
        planner([(2, 3), (4, 31)], max_tokens=30)
    with pytest.raises(ConfigError, match=r"a pair has 31 tokens, but data\.max_tokens_per_batch is 30"):
        replace(planner([(2, 3), (4, 31)], "fixed", max_tokens=30), packed=True)
    planner([(2, 3), (4, 31)], "fixed", max_tokens=30)
    planner([(2, 3), (4, 31)], max_tokens=30, kept=np.array([0]))


class TestFromPadded:
    src = torch.tensor([[5, 6, 2], [7, 2, 0]])
    tgt = torch.tensor([[1, 8, 2, 0], [1, 9, 10, 2]])

    def test_equals_the_batch_of_the_same_texts(self) -> None:
        made = planner([(3, 2), (2, 3)], "fixed").plan(0)
        order = made.pairs.tolist()
        expected = collate(made, 0, token_ids_of([[5, 6], [7]]), token_ids_of([[8], [9, 10]]), SPECIAL)
        batch = Batch.from_padded(self.src[order], self.tgt[order], pad_id=0)
        for name in ("src", "labels", "src_segments", "tgt_segments"):
            assert torch.equal(getattr(batch, name), getattr(expected, name)), name
        real = batch.tgt_segments > 0
        assert torch.equal(batch.tgt_in[real], expected.tgt_in[real])
        assert (
            (batch.num_src_tokens, batch.num_tgt_tokens) == (expected.num_src_tokens, expected.num_tgt_tokens) == (5, 5)
        )

    def test_pairs_are_numbered_through(self) -> None:
        assert Batch.from_padded(self.src, self.tgt, pad_id=0, first_pair=7).pair_ids.tolist() == [[7], [8]]

    @pytest.mark.parametrize(
        ("src", "tgt", "message"),
        [
            ([[5, 2, 0], [0, 5, 2]], [[1, 8, 2], [1, 8, 2]], "the source of pair 6 has padding (0) at place 0"),
            ([[5, 2], [5, 2]], [[1, 8, 0, 2], [1, 8, 8, 2]], "the target of pair 5 has padding (0) at place 2"),
        ],
    )
    def test_padding_before_a_token_is_refused(self, src: list[Any], tgt: list[Any], message: str) -> None:
        with pytest.raises(DataError) as caught:
            Batch.from_padded(torch.tensor(src), torch.tensor(tgt), pad_id=0, first_pair=5)
        assert (
            str(caught.value) == f"{message}, before a token. Fix: pad at the end only, with an id that no token has."
        )

    def test_an_empty_source_is_refused(self) -> None:
        src = torch.tensor([[5, 6, 2], [0, 0, 0]])
        with pytest.raises(DataError, match="pair 11 has a target but no source token"):
            Batch.from_padded(src, self.tgt, pad_id=0, first_pair=10)
        Batch.from_padded(src, torch.tensor([[1, 8, 2], [1, 0, 0]]), pad_id=0)  # nor a target: no loss


def test_packed_batches_have_one_shape_and_are_all_nearly_full() -> None:
    """There is no last one of a few rows, which would be an optimizer step on a few pairs."""
    lengths = np.random.default_rng(1).integers(5, 30, size=(3_000, 2))
    plans = [planner([*map(tuple, lengths)], "packed", max_tokens=64 * 16).plan(epoch) for epoch in range(3)]
    for plan in plans:
        rows = np.diff(plan.batch_starts)
        assert plan.rows_per_batch == plans[0].rows_per_batch == rows.max() <= 16
        assert rows.min() >= 15
        assert plan.efficiency > 0.97
    small = planner([(10, 10)] * 12, "packed", max_tokens=128 * 8).plan(0)
    assert (len(small), small.rows_per_batch) == (1, 2)


def test_moving_a_batch_keeps_it() -> None:
    batch = next(iter(tiny_loader()))
    moved = batch.to(torch.device("cpu"))
    assert all(torch.equal(v, getattr(moved, n)) for n, v in vars(batch).items() if isinstance(v, torch.Tensor))
    assert moved.num_tgt_tokens == batch.num_tgt_tokens


def test_token_ids() -> None:
    ids = token_ids_of([[3, 4], [], [5]])
    assert (ids.ids.tolist(), ids.offsets.tolist()) == ([3, 4, 5], [0, 2, 2, 3])
    assert min(map(len, random_sentences(50, seed=1))) == 0, "the tests' texts include empty ones"


@pytest.mark.parametrize("pairs", [150, 200, 300, 400, 1000])
def test_packed_batches_of_a_small_corpus_are_not_half_empty(pairs: int) -> None:
    draw = np.random.default_rng(pairs)
    lengths = list(zip(draw.integers(5, 25, pairs).tolist(), draw.integers(5, 25, pairs).tolist(), strict=True))
    made = planner(lengths, "packed", max_tokens=2048)
    plans = [made.plan(epoch) for epoch in range(4)]
    assert len({plan.rows_per_batch for plan in plans}) == 1
    assert min(plan.efficiency for plan in plans[:1]) > 0.8
