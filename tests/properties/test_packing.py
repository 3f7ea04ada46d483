"""Rows of any pairs: unpacking gives the pairs back, and no token sees another pair."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from plans import Pairs, batches_of, layouts, length_pairs, planner
from tiny import SPECIAL, texts_of

from pytorch_dl.dataset.batching import IGNORED_LABEL, collate, token_ids_of
from pytorch_dl.models.masks import segment_mask


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30), layouts)
def test_unpacking_gives_the_pairs_back(lengths: Pairs, layout: str) -> None:
    rng = np.random.default_rng(len(lengths))
    src, tgt = ([rng.integers(3, 40, n).tolist() for n in side] for side in zip(*lengths, strict=True))
    plan = planner([(a + 1, b + 1) for a, b in lengths], layout).plan(0)
    found = {}
    for index in range(len(plan)):
        batch = collate(plan, index, token_ids_of(src), token_ids_of(tgt), SPECIAL)
        for pair, in_src, in_tgt, labels in texts_of(batch):
            assert pair not in found
            found[pair] = (in_src, in_tgt, labels)
    expected = {
        i: ([*a, SPECIAL.eos_id], [SPECIAL.bos_id, *b], [*b, SPECIAL.eos_id])
        for i, (a, b) in enumerate(zip(src, tgt, strict=True))
    }
    assert found == expected


@given(length_pairs, layouts)
def test_positions_restart_and_segments_are_contiguous(pairs: Pairs, layout: str) -> None:
    for batch in batches_of(planner(pairs, layout)):
        for segments, positions in (
            (batch.src_segments, batch.src_positions),
            (batch.tgt_segments, batch.tgt_positions),
        ):
            for row, places in zip(segments.tolist(), positions.tolist(), strict=True):
                count = Counter(row)
                padding = count.pop(0, 0)
                assert list(count) == list(range(1, len(count) + 1)), "in order from 1"
                assert row[len(row) - padding :] == [0] * padding, "padding is behind"
                assert places == [n for s in count for n in range(count[s])] + [0] * padding


@given(length_pairs, layouts)
def test_padding_has_its_marks(pairs: Pairs, layout: str) -> None:
    for batch in batches_of(planner(pairs, layout)):
        assert (batch.src[batch.src_segments == 0] == SPECIAL.pad_id).all()
        assert (batch.tgt_in[batch.tgt_segments == 0] == SPECIAL.pad_id).all()
        assert torch.equal(batch.labels == IGNORED_LABEL, batch.tgt_segments == 0)
        assert batch.tgt_segments.any(), "no batch is empty"


@given(length_pairs, layouts)
def test_token_pairs_names_the_pair_of_each_token(pairs: Pairs, layout: str) -> None:
    for batch in batches_of(planner(pairs, layout)):
        text = (batch.src_segments > 0) & (batch.src != SPECIAL.eos_id)
        assert torch.equal(batch.token_pairs(batch.src_segments)[text], batch.src[text] - 3)
        text = (batch.tgt_segments > 0) & (batch.tgt_in != SPECIAL.bos_id)
        assert torch.equal(batch.token_pairs(batch.tgt_segments)[text], batch.tgt_in[text] - 3)


@given(length_pairs, layouts)
def test_a_token_attends_to_its_own_pair_and_to_no_other(pairs: Pairs, layout: str) -> None:
    """In the source, in the target up to itself, and from the target to the source."""
    for batch in batches_of(planner(pairs, layout)):
        segments = {"src": batch.src_segments, "tgt": batch.tgt_segments}
        owners = {side: batch.token_pairs(of).where(of > 0, -1) for side, of in segments.items()}
        for queries, keys, causal in (("src", "src", False), ("tgt", "tgt", True), ("tgt", "src", False)):
            mask = segment_mask(segments[queries], segments[keys], causal=causal)[:, 0]  # (B, T, S)
            expected = owners[queries][:, :, None] == owners[keys][:, None, :]
            if causal:
                expected &= torch.ones(expected.shape[1:], dtype=torch.bool).tril()
            real = segments[queries] > 0
            assert torch.equal(mask[real], expected[real]), f"{queries} to {keys}"
            assert mask.any(-1).all(), "a softmax over nothing"
