"""Scaled dot-product attention and the multi-head module around it, for self- and cross-attention.

Shapes: B batch, T queries, S keys, H query heads, K key heads, G = H / K, D head_dim, d d_model.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models.kv_cache import KeyValue, LayerCache
from pytorch_dl.models.linear import linear
from pytorch_dl.models.positions import Rotation, rotate
from pytorch_dl.models.tile_attention import fits, tile_attention
from pytorch_dl.models.variants import named

# (q (B, H, T, D), k (B, K, S, D), v (B, K, S, D), bias broadcastable to (B, 1, T, S) or None, dropout) -> (B, H, T, D)
AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


def sdpa_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Torch's fused attention."""
    bias = None if bias is None else bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, enable_gqa=q.size(1) != k.size(1))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Attention written out in matrix products: the oracle, and the faster one for short rows on a CPU."""
    groups = q.size(1) // k.size(1)
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(dim=-1, dtype=scores.dtype if scores.dtype == torch.float64 else torch.float32).to(v.dtype)
    return F.dropout(weights, dropout) @ v if dropout else weights @ v  # (B, H, T, D)


def automatic_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Fused kernels on a GPU, our own for short rows; plain products on a CPU, where they are faster for sentences."""
    if not dropout and bias is not None and fits(q, k, v, bias):
        return tile_attention(q, k, v, bias)
    chosen = sdpa_attention if q.is_cuda and not dropout else plain_attention
    return chosen(q, k, v, bias, dropout)


ATTENTION: dict[str, AttentionFunction] = {
    "auto": automatic_attention,
    "sdpa": sdpa_attention,
    "plain": plain_attention,
}


class Heads(NamedTuple):
    """How the features of a projection are divided."""

    query: int
    key: int
    dim: int


class MultiHeadAttention(nn.Module):
    """Attention in several heads (Vaswani et al. 2017); fewer key heads than query heads group them (arXiv:2305.13245).

    Self-attention projects queries, keys and values in one product, cross-attention the memory's keys and values.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_kv_heads: int | None = None,
        cross: bool = False,
        bias: bool = False,
        dropout: float = 0.0,
        attention: str | AttentionFunction = "auto",
    ) -> None:
        super().__init__()
        n_kv_heads = n_kv_heads or n_heads
        if d_model % n_heads:
            raise ValueError(f"d_model ({d_model}) must be divisible by n_heads ({n_heads})")
        if n_heads % n_kv_heads:
            raise ValueError(f"n_heads ({n_heads}) must be divisible by n_kv_heads ({n_kv_heads})")
        self.heads = Heads(n_heads, n_kv_heads, d_model // n_heads)
        self.cross = cross
        self.dropout = dropout
        self.attention = named(ATTENTION, attention, argument="attention") if isinstance(attention, str) else attention
        kv_width = 2 * n_kv_heads * self.heads.dim
        if cross:
            self.q_proj = linear(d_model, d_model, bias=bias)
            self.kv_proj = linear(d_model, kv_width, bias=bias)
        else:
            self.qkv_proj = linear(d_model, d_model + kv_width, bias=bias)
        self.out_proj = linear(d_model, d_model, bias=bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | KeyValue | None = None,
        *,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, T, d) attends to itself, or to memory (B, S, d) or its keys and values -> (B, T, d).

        With a cache, x holds one new token of each of T beams, and each beam attends to its own past.
        """
        if memory is not None:
            kv = memory if isinstance(memory, KeyValue) else self.project_memory(memory)
            q = self._split(self.q_proj(x), self.heads.query)  # (B, H, T, D)
            return self._attend(q, kv, bias)
        q, kv = self._project(x, rotation)
        return self._attend(q, kv, bias) if cache is None else self._attend(q, cache.extend(kv), cache.bias)

    def project_memory(self, memory: Tensor) -> KeyValue:
        """memory (B, S, d) -> keys and values (B, K, S, D), which decoding keeps."""
        k, v = self._split(self.kv_proj(memory), 2 * self.heads.key).chunk(2, dim=1)
        return KeyValue(k, v)

    def weights(self, x: Tensor, memory: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """How much each token of x (B, T, d) takes of each of memory (B, S, d): (B, H, T, S), rows sum to 1.

        What attention gives is linear in the values: with the identity for values it is the weights themselves,
        whichever function computes it.
        """
        keys = self.project_memory(memory).keys
        identity = torch.eye(keys.size(2), dtype=keys.dtype, device=keys.device).expand(*keys.shape[:3], -1)
        return self.attention(self._split(self.q_proj(x), self.heads.query), keys, identity, bias, 0.0)

    def _project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, KeyValue]:
        query, key, _ = self.heads
        qkv = self._split(self.qkv_proj(x), query + 2 * key)  # (B, H + 2K, T, D)
        qk, v = torch.split(qkv, [query + key, key], dim=1)
        if rotation is not None:
            qk = rotate(qk, rotation)
        q, k = torch.split(qk, [query, key], dim=1)
        return q, KeyValue(k, v)

    def _attend(self, q: Tensor, kv: KeyValue, bias: Tensor | None) -> Tensor:
        out = self.attention(q, kv.keys, kv.values, bias, self.dropout if self.training else 0.0)  # (B, H, T, D)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))  # (B, T, d)
        return projected

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, self.heads.dim).transpose(1, 2)  # (B, heads, T, D)
