"""The encoder-decoder Transformer: token ids in, logits or hidden states out.

Rows may hold one padded pair or several packed ones; segments tell which token belongs to which pair, and the mask rule
of `masks` does the rest. Forward is pure: no state but the parameters and, in decoding, an explicit cache.

Shapes: B batch, S source, T target, K beams, d d_model, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pytorch_dl.models.attention import AttentionFunction
from pytorch_dl.models.dropout import Dropout, mix
from pytorch_dl.models.feed_forward import Activation
from pytorch_dl.models.kv_cache import DecoderCache
from pytorch_dl.models.masks import additive, padding_segments, refuse_empty, segment_mask, segment_positions
from pytorch_dl.models.norms import NormFactory, make_norm
from pytorch_dl.models.positions import POSITIONS, PositionFactory
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer, TransformerEncoderLayer
from pytorch_dl.models.variants import named


class Side(NamedTuple):
    """The tokens of one side (B, T) and what tells their pairs, places and dropout."""

    tokens: Tensor
    segments: Tensor  # 0 padding, 1.. pair in the row
    positions: Tensor  # restart at 0 in each pair
    keys: Tensor | None = None  # dropout keys; None uses torch's generator


class OptimizedTransformer(nn.Module):
    """Encoder-decoder Transformer whose parts are named by strings or passed in as factories."""

    def __init__(
        self,
        *,
        src_vocab_size: int,
        tgt_vocab_size: int,
        d_model: int = 512,
        n_heads: int = 8,
        n_kv_heads: int | None = None,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        d_ff: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        max_seq_len: int = 512,
        activation: str | Activation = "swiglu",
        norm_type: str | NormFactory = "rmsnorm",
        norm_first: bool = True,
        positions: str | PositionFactory = "rope",
        bias: bool = False,
        tie_embeddings: str = "all",
        use_checkpointing: bool = False,
        activation_budget: float = 1.0,
        pad_token_id: int = 0,
        attention: str | AttentionFunction = "auto",
        encoder_layer: Callable[..., nn.Module] = TransformerEncoderLayer,
        decoder_layer: Callable[..., nn.Module] = TransformerDecoderLayer,
    ) -> None:
        super().__init__()
        _check_tying(tie_embeddings, src_vocab_size=src_vocab_size, tgt_vocab_size=tgt_vocab_size)
        self.d_model, self.n_kv_heads, self.head_dim = d_model, n_kv_heads or n_heads, d_model // n_heads
        self.max_seq_len, self.pad_token_id = max_seq_len, pad_token_id
        self.use_checkpointing, self.activation_budget = use_checkpointing, activation_budget
        self._compiled: dict[nn.Module, Callable[..., Tensor]] = {}
        self.dropout = Dropout(dropout, d_model, site=0)
        options: dict[str, Any] = {"dropout": dropout, "activation": activation, "norm_type": norm_type, "bias": bias}
        options |= {"norm_first": norm_first, "n_kv_heads": n_kv_heads}
        options |= {"attention": attention, "attention_dropout": attention_dropout}
        self.src_embedding = nn.Embedding(src_vocab_size, d_model)
        self.tgt_embedding = self.src_embedding if tie_embeddings == "all" else nn.Embedding(tgt_vocab_size, d_model)
        encoders = (encoder_layer(d_model, n_heads, d_ff, **options) for _ in range(num_encoder_layers))
        decoders = (decoder_layer(d_model, n_heads, d_ff, **options) for _ in range(num_decoder_layers))
        self.encoder_layers, self.decoder_layers = nn.ModuleList(encoders), nn.ModuleList(decoders)
        scheme = named(POSITIONS, positions, argument="positions") if isinstance(positions, str) else positions
        self.src_positions, self.tgt_positions = (scheme(d_model, self.head_dim, max_seq_len) for _ in range(2))
        # Pre-norm leaves the last sum unnormalised; post-norm has just normalised it.
        self.encoder_norm, self.decoder_norm = (
            make_norm(norm_type, d_model, bias=bias) if norm_first else nn.Identity() for _ in range(2)
        )
        self.output = nn.Linear(d_model, tgt_vocab_size, bias=False)
        for module in (self.src_embedding, self.tgt_embedding, self.output):
            nn.init.normal_(module.weight, std=d_model**-0.5)
        if tie_embeddings != "none":
            self.output.weight = self.tgt_embedding.weight

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Padded src (B, S) and tgt (B, T), which starts with bos -> logits (B, T, V) of each next token."""
        source = self.side(src)
        refuse_empty(source.segments)
        return self.project(self.hidden(source, self.side(tgt)))

    def side(self, tokens: Tensor) -> Side:
        """Describe a padded batch (B, T) with one pair to a row."""
        if tokens.size(-1) > self.max_seq_len:
            raise ValueError(f"a row of {tokens.size(-1)} tokens is longer than max_seq_len ({self.max_seq_len})")
        segments = padding_segments(tokens, self.pad_token_id)
        return Side(tokens, segments, segment_positions(segments))

    def hidden(self, src: Side, tgt: Side) -> Tensor:
        """Last hidden states (B, T, d) of the decoder, from which `project` makes logits."""
        return self.decode(tgt, self.encode(src), src.segments)

    def project(self, hidden: Tensor) -> Tensor:
        """hidden (..., d) -> logits (..., V)."""
        logits: Tensor = self.output(hidden)
        return logits

    def encode(self, src: Side) -> Tensor:
        """Source -> memory (B, S, d)."""
        x, rotation = self._embed(src, self.src_embedding, self.src_positions)
        bias = additive(segment_mask(src.segments, src.segments), x.dtype)  # (B, 1, S, S)
        for layer, keys in zip(self.encoder_layers, _layer_keys(src.keys, len(self.encoder_layers)), strict=True):
            x = self._run(layer, x, bias=bias, rotation=rotation, keys=keys)
        return self._run(self.encoder_norm, x)

    def decode(self, tgt: Side, memory: Tensor, src_segments: Tensor) -> Tensor:
        """Target and memory (B, S, d) of sources with these segments -> hidden states (B, T, d)."""
        x, rotation = self._embed(tgt, self.tgt_embedding, self.tgt_positions)
        self_bias = additive(segment_mask(tgt.segments, tgt.segments, causal=True), x.dtype)  # (B, 1, T, T)
        cross_bias = additive(segment_mask(tgt.segments, src_segments), x.dtype)  # (B, 1, T, S)
        for layer, keys in zip(self.decoder_layers, _layer_keys(tgt.keys, len(self.decoder_layers)), strict=True):
            x = self._run(layer, x, memory, self_bias=self_bias, cross_bias=cross_bias, rotation=rotation, keys=keys)
        return self._run(self.decoder_norm, x)

    def start_decoding(self, src: Tensor, *, beam_size: int = 1) -> DecoderCache:
        """Padded src (B, S) -> the cache with which `decode_step` writes, token by token, in `beam_size` beams."""
        side = self.side(src)
        return self.cache_of(self.encode(side), side.segments, beams=beam_size)

    def cache_of(
        self, memory: Tensor, src_segments: Tensor, *, beams: int, layers: Iterable[Any] | None = None
    ) -> DecoderCache:
        """The cache before the first token, of memory (B, S, d) of sources with these segments.

        `layers` are those that will read it, if not the model's own.
        """
        readers: list[Any] = list(self.decoder_layers if layers is None else layers)
        cross_bias = additive(segment_mask(torch.ones_like(src_segments[:, :1]), src_segments), memory.dtype)
        return DecoderCache.empty(
            [layer.project_memory(memory) for layer in readers],
            cross_bias,
            beams=beams,
            heads=self.n_kv_heads,
            head_dim=self.head_dim,
        )

    def decode_step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """The last token of each beam (B, K) -> hidden states (B, K, d) of the next; the cache moves on by one."""
        assert cache.longest < self.max_seq_len, f"the model writes at most max_seq_len ({self.max_seq_len}) tokens"
        cache.begin_step()
        x = self.tgt_embedding(tokens) * math.sqrt(self.d_model)  # (B, K, d)
        x, rotation = self.tgt_positions(x, cache.positions)
        for index, layer in enumerate(self.decoder_layers):
            memory = cache.memories[index]
            x = layer(x, memory, cross_bias=cache.cross_bias, rotation=rotation, cache=cache.layer(index))
        cache.end_step()
        hidden: Tensor = self.decoder_norm(x)
        return hidden

    def compile_layers(self) -> None:
        """Compile what training does with each layer; layers of one kind share the compiled code.

        On a CPU what is cheap is computed again in the backward pass rather than kept: less memory, and faster, since
        writing masks down takes longer than making them. On a GPU attention would be among it.
        """
        from torch._functorch import config
        from torch._inductor import config as inductor
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        on_gpu = self.output.weight.is_cuda
        inductor.deterministic = on_gpu  # kernels chosen by a timing would give a resumed training other bits
        config.aggressive_recomputation = not on_gpu
        config.activation_memory_budget = self.activation_budget
        if not on_gpu:  # three seconds, in which tracing the layers goes on
            Thread(target=pick_vec_isa, name="choosing CPU instructions", daemon=True).start()
        for layer in (*self.encoder_layers, *self.decoder_layers):
            self._compiled[layer] = torch.compile(layer)

    @property
    def is_compiled(self) -> bool:
        """Whether training runs compiled layers."""
        return bool(self._compiled)

    def forget_compiled(self) -> None:
        """Run the layers as they are written again."""
        self._compiled = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}  # a copy has other layers

    def num_parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _embed(self, side: Side, embedding: nn.Module, positions: nn.Module) -> tuple[Tensor, Any]:
        x = embedding(side.tokens) * math.sqrt(self.d_model)  # (B, T, d)
        x, rotation = positions(x, side.positions)
        return self.dropout(x, side.keys), rotation

    def _run(self, layer: nn.Module, *inputs: Tensor, **options: Any) -> Tensor:
        if not self.training:
            out: Tensor = layer(*inputs, **options)
            return out
        run = self._compiled.get(layer, layer)
        out = (
            checkpoint(run, *inputs, use_reentrant=False, **options)
            if self.use_checkpointing
            else run(*inputs, **options)
        )
        return out


def _layer_keys(keys: Tensor | None, layers: int) -> Sequence[Tensor | None]:
    """Keys (B, T) of each layer: each layer drops other features, and all run the same code."""
    if keys is None:
        return [None] * layers
    numbers = torch.arange(1, layers + 1, device=keys.device).view(-1, 1, 1)
    return mix(keys + numbers).unbind()


def _check_tying(tie_embeddings: str, *, src_vocab_size: int, tgt_vocab_size: int) -> None:
    if tie_embeddings not in ("all", "decoder", "none"):
        raise ValueError(f"tie_embeddings must be one of all, decoder, none, got {tie_embeddings!r}")
    if tie_embeddings == "all" and src_vocab_size != tgt_vocab_size:
        raise ValueError(
            f"tie_embeddings='all' needs one vocabulary, got src_vocab_size={src_vocab_size} and "
            f"tgt_vocab_size={tgt_vocab_size}; use 'decoder' or 'none'"
        )
