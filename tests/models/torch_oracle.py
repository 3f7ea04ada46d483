"""Which of our parameters is which part of torch.nn's, to copy weights and to compare gradients."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from small_models import assert_same
from torch import Tensor, nn

from pytorch_dl.models.attention import MultiHeadAttention
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer, TransformerEncoderLayer


class Twin(NamedTuple):
    ours: nn.Parameter
    theirs: nn.Parameter
    rows: slice = slice(None)


def of_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> Iterator[Twin]:
    if hasattr(ours, "qkv_proj"):
        projections = [(ours.qkv_proj, slice(None))]
    else:
        width = theirs.embed_dim
        projections = [(ours.q_proj, slice(0, width)), (ours.kv_proj, slice(width, None))]
    for projection, rows in projections:
        assert theirs.in_proj_weight is not None
        assert theirs.in_proj_bias is not None
        yield Twin(projection.weight, theirs.in_proj_weight, rows)
        yield Twin(projection.bias, theirs.in_proj_bias, rows)
    yield from of_module(ours.out_proj, theirs.out_proj)


def of_module(ours: nn.Module, theirs: nn.Module) -> Iterator[Twin]:
    """Two modules with parameters of the same names."""
    for name, parameter in ours.named_parameters():
        yield Twin(parameter, theirs.get_parameter(name))


def of_encoder_layer(ours: TransformerEncoderLayer, theirs: nn.TransformerEncoderLayer) -> Iterator[Twin]:
    yield from of_attention(ours.self_attention, theirs.self_attn)
    yield from of_module(ours.self_residual.norm, theirs.norm1)
    yield from of_module(ours.ff_residual.norm, theirs.norm2)
    yield from of_module(ours.feed_forward.in_proj, theirs.linear1)
    yield from of_module(ours.feed_forward.out_proj, theirs.linear2)


def of_decoder_layer(ours: TransformerDecoderLayer, theirs: nn.TransformerDecoderLayer) -> Iterator[Twin]:
    yield from of_attention(ours.self_attention, theirs.self_attn)
    yield from of_attention(ours.cross_attention, theirs.multihead_attn)
    yield from of_module(ours.self_residual.norm, theirs.norm1)
    yield from of_module(ours.cross_residual.norm, theirs.norm2)
    yield from of_module(ours.ff_residual.norm, theirs.norm3)
    yield from of_module(ours.feed_forward.in_proj, theirs.linear1)
    yield from of_module(ours.feed_forward.out_proj, theirs.linear2)


@torch.no_grad()
def copy_weights(twins: list[Twin], ours: nn.Module, theirs: nn.Module) -> None:
    """Copy ours to theirs; every parameter of both must have its twin."""
    assert {id(twin.ours) for twin in twins} == {id(parameter) for parameter in ours.parameters()}
    assert {id(twin.theirs) for twin in twins} == {id(parameter) for parameter in theirs.parameters()}
    for twin in twins:
        twin.theirs[twin.rows].copy_(twin.ours)


def assert_same_gradients(twins: list[Twin], *, relative: float) -> None:
    for index, twin in enumerate(twins):
        assert twin.ours.grad is not None
        assert twin.theirs.grad is not None
        assert_same(twin.ours.grad, twin.theirs.grad[twin.rows], relative=relative, what=f"parameter {index}")


def inputs_of_two(*tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Two copies of the tensors, each with gradients."""
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in tensors] for _ in range(2))
    return ours, theirs
