"""A trained model made ready to be read out: fewer and smaller operations for each token, the same function.

What a step of decoding costs is less its arithmetic than the number of operations and the bytes that they pass over. So
the factor of RMSNorm is multiplied in behind the product that follows it, its weight is part of that product's, as is
the scale of attention scores; rotary pairs stand side by side, so that a rotation is one product of complex numbers;
and the matrix products run in the precision that is asked for.

Shapes: B sentences, K beams, S source, N tokens so far, H and G heads of queries and keys, D head_dim, d d_model.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_dl.models.attention import ATTENTION, MultiHeadAttention
from pytorch_dl.models.feed_forward import FeedForward
from pytorch_dl.models.kv_cache import DecoderCache, KeyValue, LayerCache
from pytorch_dl.models.lowered import lower, product_of
from pytorch_dl.models.norms import LayerNorm, RMSNorm
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from pytorch_dl.models.transformer_blocks import Residual, TransformerDecoderLayer


class Reader:
    """What `start_decoding`, `decode_step` and `project` of a model do, with its weights as they are now.

    Models with layers, norms or positions of a user's own keep their way of decoding; their linear layers are lowered.
    """

    def __init__(self, model: OptimizedTransformer, *, precision: str = "fp32") -> None:
        self.model = _lowered(model, precision)
        self.layers: list[ReadingLayer] | None = None
        if is_known(model):
            layers: Any = model.decoder_layers
            self.layers = [ReadingLayer(layer, precision) for layer in layers]
        self.output = product_of(model.output, precision)

    @property
    def training(self) -> bool:
        """Whether the model is, whose dropout would then be at work."""
        return self.model.training

    @property
    def max_seq_len(self) -> int:
        """The most tokens of a source or target."""
        return self.model.max_seq_len

    def start_decoding(self, src: Tensor, *, beam_size: int = 1) -> DecoderCache:
        """Padded src (B, S) -> the cache with which `decode_step` writes, token by token, in `beam_size` beams."""
        return self.model.start_decoding(src, beam_size=beam_size, layers=self.layers)

    def decode_step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """The last token of each beam (B, K) -> hidden states (B, K, d) of the next; the cache moves on by one."""
        if self.layers is None:
            return self.model.decode_step(tokens, cache)
        cache.begin_step()
        x = self.model.tgt_embedding(tokens) * math.sqrt(self.model.d_model)  # (B, K, d)
        x, rotation = self.model.tgt_positions(x, cache.positions)
        turns = None if rotation is None else torch.complex(rotation.cos, rotation.sin)  # (B, 1, 1, D / 2)
        for index, layer in enumerate(self.layers):
            x = layer(x, cache.memories[index], cross_bias=cache.cross_bias, turns=turns, cache=cache.layer(index))
        cache.end_step()
        hidden: Tensor = self.model.decoder_norm(x)
        return hidden

    def project(self, hidden: Tensor) -> Tensor:
        """hidden (..., d) -> logits (..., V)."""
        logits: Tensor = self.output(hidden)
        return logits


class ReadingLayer:
    """A decoder layer, one token of each beam at a time."""

    def __init__(self, layer: TransformerDecoderLayer, precision: str) -> None:
        own, cross, ff = layer.self_attention, layer.cross_attention, layer.feed_forward
        self.heads = own.heads
        self.self_in = Normed(layer.self_residual, _side_by_side(own), precision)
        self.cross_in = Normed(layer.cross_residual, _scaled(cross), precision)
        self.ff_in = Normed(layer.ff_residual, ff.in_proj, precision, narrow=precision == "bf16")
        self.self_out, self.cross_out, self.ff_out = (product_of(part.out_proj, precision) for part in (own, cross, ff))
        self.memory = product_of(cross.kv_proj, precision)
        self.activation, self.gated = ff.activation, ff.gated
        self.norms: list[Callable[[Tensor], Tensor]] = [  # of the sums
            _unchanged if residual.norm_first else residual.norm
            for residual in (layer.self_residual, layer.cross_residual, layer.ff_residual)
        ]

    def __call__(
        self, x: Tensor, memory: KeyValue, *, cross_bias: Tensor, turns: Tensor | None, cache: LayerCache
    ) -> Tensor:
        """x (B, K, d), memory (B, G, S, D) twice, turns (B, 1, 1, D / 2) as complex numbers -> (B, K, d), in place."""
        query, key, dim = self.heads
        qkv = self.self_in(x).view(*x.shape[:-1], query + 2 * key, dim)  # (B, K, H + 2G, D)
        qk, v = qkv[:, :, : query + key], qkv[:, :, query + key :]
        if turns is not None:
            pairs = torch.view_as_complex(qk.view(*qk.shape[:-1], dim // 2, 2))
            qk = torch.view_as_real(pairs * turns).flatten(-2)
        past = cache.extend(KeyValue(qk[:, :, query:].transpose(1, 2), v.transpose(1, 2)))
        x = self.norms[0](x.add_(self.self_out(attend(qk[:, :, :query], past, cache.bias))))
        q = self.cross_in(x).view(*x.shape[:-1], query, dim)  # (B, K, H, D)
        x = self.norms[1](x.add_(self.cross_out(attend(q, memory, cross_bias))))
        return self.norms[2](x.add_(self.ff_out(self._activated(self.ff_in(x)))))

    def project_memory(self, memory: Tensor) -> KeyValue:
        """memory (B, S, d) -> keys and values (B, G, S, D)."""
        kv = self.memory(memory).to(memory.dtype).view(*memory.shape[:-1], 2 * self.heads.key, self.heads.dim)
        kv = kv.transpose(1, 2)
        return KeyValue(*kv.chunk(2, dim=1))

    def _activated(self, h: Tensor) -> Tensor:
        if not self.gated:
            return self.activation(h)
        gate, value = h.chunk(2, dim=-1)
        return self.activation(gate).mul_(value)


class Normed:
    """A product behind the normalisation of its input, if it has one."""

    def __init__(self, residual: Residual, linear: nn.Linear, precision: str, *, narrow: bool = False) -> None:
        self.narrow = narrow
        norm = residual.norm if residual.norm_first else None
        self.eps = norm.eps if isinstance(norm, RMSNorm) else None
        self.norm = None if isinstance(norm, RMSNorm) else norm
        self.product = product_of(linear, precision, scale=norm.weight.detach() if isinstance(norm, RMSNorm) else None)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O) in the precision of x, or where `narrow` in bf16."""
        kind = torch.bfloat16 if self.narrow else x.dtype
        if self.eps is None:
            return self.product(x if self.norm is None else self.norm(x)).to(kind)
        squares = torch.linalg.vecdot(x, x).unsqueeze(-1)  # (..., 1)
        factor = squares.div_(x.size(-1)).add_(self.eps).rsqrt_()
        return self.product(x, factor.to(kind)).to(kind)


def _unchanged(x: Tensor) -> Tensor:
    return x


def attend(q: Tensor, past: KeyValue, bias: Tensor) -> Tensor:
    """q (B, K, H, D), scaled before, over keys and values (B, G, N, D) with bias (B, 1, K, N) -> (B, K, H * D)."""
    batch, beams, heads, dim = q.shape
    groups = heads // past.keys.size(1)
    q = q.transpose(1, 2).reshape(batch, -1, groups * beams, dim)  # (B, G, H / G * K, D)
    scores = q @ past.keys.transpose(-2, -1)  # (B, G, H / G * K, N)
    if groups > 1 and bias.size(2) > 1:
        bias = bias.repeat(1, 1, groups, 1)
    weights = scores.add_(bias).softmax(-1)
    return (weights @ past.values).view(batch, heads, beams, dim).transpose(1, 2).flatten(2)


def is_known(model: OptimizedTransformer) -> bool:
    """Whether all that decoding goes through is this project's own."""
    known_positions = (RotaryPositions, SinusoidalPositions, LearnedPositions)
    norms = [norm for layer in model.decoder_layers for norm in _norms(layer)]
    return (
        all(type(layer) is TransformerDecoderLayer for layer in model.decoder_layers)
        and type(model.tgt_positions) in known_positions
        and all(type(norm) in (RMSNorm, LayerNorm) for norm in norms)
        and all(_is_known_attention(layer) for layer in model.decoder_layers)
    )


def _norms(layer: Any) -> list[nn.Module]:
    return [part.norm for part in layer.children() if isinstance(part, Residual)]


def _is_known_attention(layer: Any) -> bool:
    parts = (layer.self_attention, layer.cross_attention)
    own = all(type(part) is MultiHeadAttention and part.attention in ATTENTION.values() for part in parts)
    return own and type(layer.feed_forward) is FeedForward


def _lowered(model: OptimizedTransformer, precision: str) -> OptimizedTransformer:
    """The model with linear layers of its own in another precision, and all else shared."""
    if precision == "fp32":
        return model
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.encoder_layers = copy.deepcopy(model.encoder_layers)
    lower(other.encoder_layers, precision)
    if not is_known(model):
        other.decoder_layers = copy.deepcopy(model.decoder_layers)
        lower(other.decoder_layers, precision)
    return other


def _scaled(attention: MultiHeadAttention) -> nn.Linear:
    """The projection of queries, with the scale of attention scores in it."""
    return _changed(attention.q_proj, lambda rows: rows * attention.heads.dim**-0.5)


def _side_by_side(attention: MultiHeadAttention) -> nn.Linear:
    """The projection of queries, keys and values, with rotary pairs side by side, and scaled queries.

    A rotation turns feature i of a head with feature i + D / 2. Scores do not depend on the order of features.
    """
    query, key, dim = attention.heads

    def changed(rows: Tensor) -> Tensor:
        by_head = rows.view(query + 2 * key, dim, -1)
        turned = by_head[: query + key].view(query + key, 2, dim // 2, -1).transpose(1, 2).flatten(1, 2)
        turned = torch.cat([turned[:query] * dim**-0.5, turned[query:], by_head[query + key :]])
        return turned.reshape(rows.shape)

    return _changed(attention.qkv_proj, changed)


def _changed(linear: nn.Linear, change: Any) -> nn.Linear:
    """A linear layer whose outputs are changed: a function of its rows, which are those of the weight and the bias."""
    other = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    other.weight = nn.Parameter(change(linear.weight.detach()), requires_grad=False)
    if linear.bias is not None:
        other.bias = nn.Parameter(change(linear.bias.detach()), requires_grad=False)
    return other
