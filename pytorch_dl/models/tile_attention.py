"""Attention of short rows on a GPU: one program computes all of a row and head, forward and backward.

Rows of packed sentences are short, and kernels made for long ones divide them, keep what they do not need, and add up
parts in an order that changes from run to run. Here scores are computed again in the backward pass, and each number is
written once.

Shapes: B batch, H heads, T queries, S keys, D head_dim.
"""

import torch
from torch import Tensor

from pytorch_dl.models.compilers import missing_for_compilation

LONGEST = 128  # rows: longer ones do not fit into the registers of a program
SHORTEST = 16  # side of a matrix product
FORWARD_WARPS, BACKWARD_WARPS = 8, 4  # measured on an H200 for rows of 128 and 64 features
DIMS = (16, 32, 64)  # whose tiles fit into the shared memory of every GPU that has bf16
CAN_COMPILE = missing_for_compilation("cuda") is None


def fits(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> bool:
    """Whether attention of this kind and size is what the kernels are for."""
    return (
        q.is_cuda
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and k.shape == v.shape
        and q.size(1) == k.size(1)
        and max(q.size(2), k.size(2)) <= LONGEST
        and q.size(3) in DIMS
        and bias.size(1) == 1
        and not bias.requires_grad
        and CAN_COMPILE
    )


def tile_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """q (B, H, T, D), k and v (B, H, S, D), bias (B, 1, T, S) or fewer rows of it -> (B, H, T, D)."""
    shape = q.size(0), 1, q.size(2), k.size(2)
    out: Tensor = _attention(q, k, v, bias.to(q.dtype).expand(shape).contiguous())
    return out


@torch.library.custom_op("pytorch_dl::tile_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    from pytorch_dl.models import tile_kernels

    out = _empty_like(q)
    q, k, v = map(_dense, (q, k, v))
    places = [number for part in (q, k, v, out) for number in (part, *part.stride()[:3])]
    tile_kernels.forward[(q.size(0) * q.size(1),)](*places, bias, *_sizes(q, k), **_blocks(q, k, FORWARD_WARPS))
    return out


@torch.library.custom_op("pytorch_dl::tile_attention_backward", mutates_args=())
def _attention_backward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from pytorch_dl.models import tile_kernels

    grads = _empty_like(q), _empty_like(k), _empty_like(v)
    q, k, v, grad = map(_dense, (q, k, v, grad))
    places = [number for part in (q, k, v, grad, *grads) for number in (part, *part.stride()[:3])]
    tile_kernels.backward[(q.size(0) * q.size(1),)](*places, bias, *_sizes(q, k), **_blocks(q, k, BACKWARD_WARPS))
    return grads


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return _empty_like(q)


@_attention_backward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_like(q), _empty_like(k), _empty_like(v)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attention_backward(*ctx.saved_tensors, grad), None)  # type: ignore[attr-defined]


_attention.register_autograd(_differentiate, setup_context=_save)


def _empty_like(x: Tensor) -> Tensor:
    """Room for (B, H, T, D) that lies as (B, T, H, D), as projections give and take it."""
    batch, heads, tokens, dim = x.shape
    return x.new_empty(batch, tokens, heads, dim).transpose(1, 2)


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 else x.contiguous()


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int, float]:
    return q.size(1), q.size(2), k.size(2), q.size(3) ** -0.5


def _blocks(q: Tensor, k: Tensor, warps: int) -> dict[str, int]:
    queries, keys = (max(SHORTEST, 1 << (part.size(2) - 1).bit_length()) for part in (q, k))
    return {"T": queries, "S": keys, "D": q.size(3), "num_warps": warps, "num_stages": 1}
