"""A trained model made ready to be read out: fewer and smaller operations for each token, the same function.

What a step of decoding costs is less its arithmetic than the number of operations and the bytes that they pass over. So
the weight of RMSNorm is part of the product that follows it (in int8 its factor too, which costs nothing there), as is
the scale of attention scores; rotary pairs stand side by side, so that a rotation is one product of complex numbers;
and the matrix products run in the precision that is asked for.

Shapes: B sentences, K beams, S source, N tokens so far, H and G heads of queries and keys, D head_dim, d d_model.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.errors import ConfigError
from pytorch_dl.models.attention import ATTENTION, MultiHeadAttention
from pytorch_dl.models.dropout import Dropout
from pytorch_dl.models.feed_forward import GATED, PLAIN, FeedForward
from pytorch_dl.models.kv_cache import DecoderCache, KeyValue, Past
from pytorch_dl.models.lowered import lower, product_of
from pytorch_dl.models.masks import additive, segment_mask
from pytorch_dl.models.norms import LayerNorm, RMSNorm
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side
from pytorch_dl.models.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from pytorch_dl.models.recorded import Recordings
from pytorch_dl.models.transformer_blocks import Residual, TransformerDecoderLayer, TransformerEncoderLayer

ACTIVATIONS = {*PLAIN.values(), *GATED.values()}
FEWEST_ALIKE = 16  # rows that are encoded together for being of like lengths


class Reader:
    """What `start_decoding`, `decode_step` and `project` of a model do, with its weights as they are now.

    Sides with layers, norms or positions of a user's own keep their way of computing; their linear layers are lowered.
    With `recorded`, steps are CUDA graphs, for one thread: it needs a GPU and a decoder without parts of a user's own.
    """

    def __init__(self, model: OptimizedTransformer, *, precision: str = "fp32", recorded: bool = False) -> None:
        self._trained, self.model = model, _lowered(model, precision)
        self.encoder = _layers(model.encoder_layers, precision) if is_known(model, "encoder") else None
        self.encoder_norm = lean(model.encoder_norm)
        self.decoder = ReadingDecoder(model, precision) if is_known(model, "decoder") else None
        self.output = product_of(model.output, precision) if type(model.output) is nn.Linear else model.output
        self.recordings = Recordings(self.decoder) if recorded and self.decoder else None
        if recorded and not self.recordings:
            raise ConfigError(
                "CUDA graphs record this project's own decoder layers, norms and positions, and the model has others",
                fix="leave out the option",
            )

    @property
    def training(self) -> bool:
        """Whether the model is, whose dropout would then be at work."""
        return self._trained.training

    @property
    def max_seq_len(self) -> int:
        """The most tokens of a source or target."""
        return self.model.max_seq_len

    def start_decoding(self, src: Tensor, *, beam_size: int = 1) -> DecoderCache:
        """Padded src (B, S) -> the cache with which `decode_step` writes, token by token, in `beam_size` beams."""
        side = self.model.side(src)
        layers = self.decoder.layers if self.decoder else None
        return self.model.cache_of(self._encode(side), side.segments, beams=beam_size, layers=layers)

    def decode_step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """The last token of each beam (B, K) -> hidden states (B, K, d) of the next; the cache moves on by one."""
        if self.decoder is None:
            return self.model.decode_step(tokens, cache)
        assert cache.longest < self.max_seq_len, f"the model writes at most max_seq_len ({self.max_seq_len}) tokens"
        cache.begin_step()
        if self.recordings:
            hidden = self.recordings.step(tokens, cache)
        else:
            # A search begins with beams that all hold the same: then one is computed for all.
            same = not cache.longest and torch.equal(tokens, tokens[:, :1].expand_as(tokens))
            spoken = tokens[:, :1] if same else tokens
            pasts = [cache.layer(index) for index in range(len(self.decoder.layers))]
            hidden = self.decoder(spoken, cache.positions, pasts, cache.memories, cache.cross_bias).expand(
                *tokens.shape, -1
            )
        cache.end_step()
        return hidden

    def project(self, hidden: Tensor) -> Tensor:
        """hidden (..., d) -> logits (..., V)."""
        logits: Tensor = self.output(hidden)
        return logits

    def _encode(self, src: Side) -> Tensor:
        """Source -> memory (B, S, d), with zeros for padding that was not computed."""
        if src.tokens.device.type != "cpu":  # on which padding costs less than another round of small operations
            return self._encode_together(src)
        parts = alike((src.segments != 0).sum(-1).tolist())
        if len(parts) == 1:
            return self._encode_together(src)
        memories = []
        for rows, width in parts:
            part = Side(src.tokens[rows, :width], src.segments[rows, :width], src.positions[rows, :width])
            memory = self._encode_together(part)
            memories.append(F.pad(memory, (0, 0, 0, src.tokens.size(1) - width)))
        return torch.cat(memories)

    def _encode_together(self, src: Side) -> Tensor:
        if self.encoder is None:
            return self.model.encode(src)
        x, turns = _embedded(src.tokens, src.positions, self.model.src_embedding, self.model.src_positions)
        row = WholeRow(additive(segment_mask(src.segments, src.segments), x.dtype))
        for layer in self.encoder:
            x = layer(x, row, turns)
        return self.encoder_norm(x)


class ReadingDecoder:
    """All layers of the decoder, one token of each beam at a time."""

    def __init__(self, model: OptimizedTransformer, precision: str) -> None:
        self.layers = _layers(model.decoder_layers, precision)
        self.embedding, self.positions = model.tgt_embedding, model.tgt_positions
        self.norm = lean(model.decoder_norm)

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        pasts: Sequence[Past],
        memories: Sequence[KeyValue],
        cross_bias: Tensor,
    ) -> Tensor:
        """Tokens (B, K) at positions (B, 1), bias (B, 1, 1, S) -> hidden states (B, K, d)."""
        x, turns = _embedded(tokens, positions, self.embedding, self.positions)
        for layer, past, memory in zip(self.layers, pasts, memories, strict=True):
            x = layer(x, past, turns, memory, cross_bias)
        return self.norm(x)


class WholeRow:
    """All tokens of a row are new."""

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias

    def extend(self, new: KeyValue) -> KeyValue:
        """The new ones."""
        return new


class ReadingLayer:
    """A layer of the encoder, K tokens of each row at a time, or of the decoder, one token of each of K beams."""

    def __init__(self, layer: TransformerEncoderLayer | TransformerDecoderLayer, precision: str) -> None:
        own, ff = layer.self_attention, layer.feed_forward
        self.heads = own.heads
        self.self_in = Normed(layer.self_residual, _side_by_side(own), precision)
        self.self_out = Summed(layer.self_residual, own.out_proj, precision)
        if isinstance(layer, TransformerDecoderLayer):
            cross = layer.cross_attention
            self.cross_in = Normed(layer.cross_residual, _scaled(cross), precision)
            self.cross_out = Summed(layer.cross_residual, cross.out_proj, precision)
            self.memory = product_of(cross.kv_proj, precision)
        narrow = precision == "bf16" and ff.activation in ACTIVATIONS  # others may not take bf16
        self.ff_in = Normed(layer.ff_residual, ff.in_proj, precision, narrow=narrow)
        self.ff_out = Summed(layer.ff_residual, ff.out_proj, precision)
        self.activation, self.gated = ff.activation, ff.gated

    def __call__(
        self,
        x: Tensor,
        past: Past,
        turns: Tensor | None,
        memory: KeyValue | None = None,
        cross_bias: Tensor | None = None,
    ) -> Tensor:
        """x (B, K, d), turns (B, K, 1, D / 2) as complex numbers, memory (B, G, S, D) twice -> (B, K, d), in place."""
        query, key, dim = self.heads
        qkv = self.self_in(x).view(*x.shape[:-1], query + 2 * key, dim)  # (B, K, H + 2G, D)
        if turns is not None:
            turned = qkv[:, :, : query + key]
            torch.view_as_complex(turned.view(*turned.shape[:-1], dim // 2, 2)).mul_(turns)
        k, v = qkv[:, :, query:].transpose(1, 2).chunk(2, dim=1)  # (B, G, K, D)
        seen = past.extend(KeyValue(k, v))
        x = self.self_out(x, attend(qkv[:, :, :query], seen, past.bias[:, :, : x.size(1)]))
        if memory is not None and cross_bias is not None:
            q = self.cross_in(x).view(*x.shape[:-1], query, dim)  # (B, K, H, D)
            x = self.cross_out(x, attend(q, memory, cross_bias))
        return self.ff_out(x, self._activated(self.ff_in(x)))

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


class Summed:
    """A product that is added to the residual stream, and the normalisation of the sum, if it has one."""

    def __init__(self, residual: Residual, linear: nn.Linear, precision: str) -> None:
        self.product = product_of(linear, precision)
        self.norm = None if residual.norm_first else lean(residual.norm)

    def __call__(self, x: Tensor, inner: Tensor) -> Tensor:
        """x (B, K, d), inner (B, K, I) -> (B, K, d), in place but for norms of other kinds than RMSNorm."""
        x.add_(self.product(inner))
        return x if self.norm is None else self.norm(x)


class Normed:
    """A product behind the normalisation of its input, if it has one."""

    def __init__(self, residual: Residual, linear: nn.Linear, precision: str, *, narrow: bool = False) -> None:
        self.narrow = narrow
        self.norm = lean(residual.norm) if residual.norm_first else None
        scale = self.norm.scale if isinstance(self.norm, LeanNorm) else None
        self.product = product_of(linear, precision, scale=scale)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O) in the precision of x, or where `narrow` in bf16."""
        kind = torch.bfloat16 if self.narrow else x.dtype
        if isinstance(self.norm, LeanNorm):
            return self.product(x, self.norm.factor(x)).to(kind)
        return self.product(x if self.norm is None else self.norm(x)).to(kind)


class LeanNorm:
    """RMSNorm by fewer operations: a factor for each row, from its length, and a scale for each feature."""

    def __init__(self, norm: RMSNorm) -> None:
        width = norm.weight.numel()
        self.scale = norm.weight.detach() * math.sqrt(width)
        # What RMSNorm adds under the root, for the length of a row rather than the mean of its squares.
        self.least = torch.full_like(self.scale[:1], math.sqrt(norm.eps * width))

    def factor(self, x: Tensor) -> Tensor:
        """x (..., d) -> (..., 1)."""
        return torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.least).reciprocal_()

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., d), in place."""
        return x.mul_(self.factor(x)).mul_(self.scale)


def lean(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """A normalisation as it is read out."""
    return LeanNorm(norm) if type(norm) is RMSNorm else norm


def attend(q: Tensor, past: KeyValue, bias: Tensor) -> Tensor:
    """q (B, K, H, D), scaled before, over keys and values (B, G, N, D) with bias (B, 1, K or 1, N) -> (B, K, H * D)."""
    batch, beams, heads, dim = q.shape
    groups = heads // past.keys.size(1)
    q = q.transpose(1, 2).reshape(-1, groups * beams, dim)  # (B * G, H / G * K, D)
    scores = torch.bmm(q, past.keys.flatten(0, 1).transpose(1, 2))  # (B * G, H / G * K, N)
    if groups > 1 and bias.size(2) > 1:
        bias = bias.repeat(1, 1, groups, 1)
    weights = scores.view(batch, -1, *scores.shape[1:]).add_(bias).softmax(-1)
    out = torch.bmm(weights.flatten(0, 1), past.values.flatten(0, 1))  # (B * G, H / G * K, D)
    return out.view(batch, heads, beams, dim).transpose(1, 2).flatten(2)


def alike(lengths: Sequence[int], first: int = 0) -> list[tuple[slice, int]]:
    """Rows that are encoded apart, with their width: halves, and halves of these, where a quarter would be padding."""
    count, width = len(lengths), max(lengths)
    if count < 2 * FEWEST_ALIKE or sum(lengths) > 0.75 * width * count:
        return [(slice(first, first + count), width)]
    half = count // 2
    return [*alike(lengths[:half], first), *alike(lengths[half:], first + half)]


def is_known(model: OptimizedTransformer, side: str) -> bool:
    """Whether all that a side goes through is this project's own."""
    layers, positions, known = {
        "encoder": (model.encoder_layers, model.src_positions, TransformerEncoderLayer),
        "decoder": (model.decoder_layers, model.tgt_positions, TransformerDecoderLayer),
    }[side]
    parts = [part for layer in layers for part in layer.children()]
    return (
        all(type(layer) is known for layer in layers)
        and type(positions) in (RotaryPositions, SinusoidalPositions, LearnedPositions)
        and all(map(_is_known_part, parts))
    )


def _is_known_part(part: nn.Module) -> bool:
    if isinstance(part, Residual):
        return type(part.norm) in (RMSNorm, LayerNorm)
    own = type(part) is FeedForward or (type(part) is MultiHeadAttention and part.attention in ATTENTION.values())
    return own and all(type(inner) in (nn.Linear, Dropout) for inner in part.children())


def _layers(layers: Any, precision: str) -> list[ReadingLayer]:
    return [ReadingLayer(layer, precision) for layer in layers]


def _embedded(tokens: Tensor, places: Tensor, embedding: nn.Module, positions: Any) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, K) at their places -> x (B, K, d), and the turns (B, K, 1, D / 2) of rotary pairs."""
    x = embedding(tokens)
    x, rotation = positions(x * math.sqrt(x.size(-1)), places)
    if rotation is None:
        return x, None
    return x, torch.complex(rotation.cos, rotation.sin).transpose(1, 2)


def _lowered(model: OptimizedTransformer, precision: str) -> OptimizedTransformer:
    """The model with the linear layers of unknown sides in another precision, and all else shared."""
    if precision == "fp32":
        return model
    other = copy.copy(model)
    other._modules = dict(model._modules)
    for side in ("encoder", "decoder"):
        if not is_known(model, side):
            layers = copy.deepcopy(model.get_submodule(f"{side}_layers"))
            lower(layers.eval(), precision)
            setattr(other, f"{side}_layers", layers)
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
