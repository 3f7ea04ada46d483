"""Packed rows, padded rows and one pair at a time are the same; nothing leaks between pairs or from the future."""

import itertools
from typing import Any

import pytest
import torch
from small_models import PAD, VOCAB, assert_same, gradients, random_pairs, sides, small, summed_loss
from torch import Tensor

from pytorch_dl.models.masks import padding_segments, segment_positions
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side

PAIRS = random_pairs(5)
NAMES = ("positions", "norm_first", "n_kv_heads", "dropout")
VARIANTS: list[dict[str, Any]] = [
    dict(zip(NAMES, values, strict=True))
    for values in itertools.product(("rope", "sinusoidal", "learned"), (True, False), (None, 2), (0.0, 0.3))
]
OTHERS: list[dict[str, Any]] = [
    {"attention": "sdpa", "n_kv_heads": 2, "dropout": 0.3},
    {"attention": "sdpa", "norm_first": False, "positions": "sinusoidal"},
    {"activation": "relu", "norm_type": "layernorm", "bias": True, "tie_embeddings": "none", "dropout": 0.3},
    {"activation": "geglu", "tie_embeddings": "decoder", "use_checkpointing": True, "dropout": 0.3},
]


def name(variant: dict[str, Any]) -> str:
    return "-".join(f"{value}" for value in variant.values())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("variant", [*VARIANTS, *OTHERS], ids=name)
def test_packed_is_padded_is_one_pair_at_a_time(variant: dict[str, Any]) -> None:
    model = small(**variant)
    layouts = {
        "padded": sides([[pair] for pair in PAIRS], src_width=9, tgt_width=8),
        "packed": sides([[PAIRS[3], PAIRS[0], PAIRS[1]], [PAIRS[4], PAIRS[2]]], src_width=21, tgt_width=23),
    }
    alone = [sides([[pair]], src_width=len(pair.src), tgt_width=len(pair.tgt)) for pair in PAIRS]
    loss = torch.stack([summed_loss(model, *pair) for pair in alone]).sum()
    expected = gradients(model, loss)
    for layout, (src, tgt, labels) in layouts.items():
        assert (labels != PAD).sum() == sum(len(pair.tgt) for pair in PAIRS)
        other = summed_loss(model, src, tgt, labels)
        assert_same(other, loss, relative=1e-12, what=layout)
        for parameter, gradient in gradients(model, other).items():
            assert_same(gradient, expected[parameter], relative=1e-12, what=f"{layout} {parameter}")


def test_dropout_is_on_in_the_comparison() -> None:
    model = small(dropout=0.3)
    src, tgt, labels = sides([[pair] for pair in PAIRS], src_width=9, tgt_width=8)
    trained = summed_loss(model, src, tgt, labels)
    assert not torch.isclose(trained, summed_loss(model.eval(), src, tgt, labels), rtol=1e-3)


def test_the_plain_call_is_a_padded_side() -> None:
    model = small()
    src, tgt, _ = sides([[pair] for pair in PAIRS], src_width=9, tgt_width=8)
    real = tgt.segments > 0
    assert torch.equal(model(src.tokens, tgt.tokens)[real], model.project(model.hidden(src, tgt))[real])
    described = model.side(tgt.tokens)
    assert torch.equal(described.segments, tgt.segments)
    assert torch.equal(described.positions[real], tgt.positions[real])
    assert described.keys is None


def hidden(model: OptimizedTransformer, src: Side, tgt: Side) -> Tensor:
    with torch.no_grad():
        out = model.hidden(src, tgt)
    assert out.isfinite().all()
    return out


def changed(side: Side, where: Tensor) -> Side:
    """Another token wherever `where` is true."""
    return side._replace(tokens=torch.where(where, (side.tokens + 1) % (VOCAB - 1) + 1, side.tokens))


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_the_future_does_not_leak(variant: dict[str, Any], attention: str) -> None:
    model = small(attention=attention, **variant)
    src, tgt, _ = sides([PAIRS[:3], PAIRS[3:]], src_width=21, tgt_width=23)
    before = hidden(model, src, tgt)
    index = torch.arange(23)
    for position in (0, 3, 7):
        after = hidden(model, src, changed(tgt, (index == position).expand_as(tgt.tokens)))
        assert torch.equal(after[:, :position], before[:, :position])
        assert not torch.equal(after[0, position], before[0, position])


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_other_pairs_and_padding_do_not_leak(variant: dict[str, Any], attention: str) -> None:
    model = small(attention=attention, **variant)
    src, tgt, _ = sides([PAIRS[:3], PAIRS[3:]], src_width=21, tgt_width=23)
    before = hidden(model, src, tgt)
    for segment in (1, 2, 3, 0):
        after = hidden(model, changed(src, src.segments == segment), changed(tgt, tgt.segments == segment))
        own = tgt.segments == segment
        assert torch.equal(after[~own & (tgt.segments > 0)], before[~own & (tgt.segments > 0)])
        assert not torch.equal(after[own], before[own])


def test_the_source_reaches_every_target_of_its_pair_and_the_encoder_looks_ahead() -> None:
    model = small()
    src, tgt, _ = sides([PAIRS[:3]], src_width=21, tgt_width=23)
    last = torch.zeros_like(src.segments, dtype=torch.bool)
    last[0, len(PAIRS[0].src) - 1] = True
    before, after = hidden(model, src, tgt), hidden(model, changed(src, last), tgt)
    real = tgt.segments > 0
    assert ((before != after).any(-1) == (tgt.segments == 1))[real].all()


def test_more_padding_changes_nothing() -> None:
    model = small()
    src, tgt, labels = sides([[pair] for pair in PAIRS], src_width=9, tgt_width=8)
    loss = summed_loss(model, src, tgt, labels)
    longer = sides([[pair] for pair in PAIRS], src_width=30, tgt_width=32)
    assert_same(summed_loss(model, *longer), loss, relative=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss).values())


def test_segments_and_positions_of_a_row_made_by_hand_are_those_of_masks() -> None:
    src, _, _ = sides([[pair] for pair in PAIRS], src_width=9, tgt_width=9)
    assert torch.equal(padding_segments(src.tokens, PAD), src.segments.int())
    packed, _, _ = sides([PAIRS[:3]], src_width=21, tgt_width=23)
    real = packed.segments > 0
    assert torch.equal(segment_positions(packed.segments)[real], packed.positions[real])
