"""One layer of the encoder and of the decoder.

    pre-norm    x + dropout(sublayer(norm(x)))
    post-norm   norm(x + dropout(sublayer(x)))

Subclass a layer, or write another with the same `forward` (and, in the decoder, `project_memory`), and pass it to
`OptimizedTransformer`.

Shapes: B batch, T target, S source, d d_model.
"""

from collections.abc import Callable

from torch import Tensor, nn

from pytorch_dl.models.attention import AttentionFunction, MultiHeadAttention
from pytorch_dl.models.dropout import Dropout
from pytorch_dl.models.feed_forward import Activation, FeedForward
from pytorch_dl.models.kv_cache import KeyValue, LayerCache
from pytorch_dl.models.norms import NormFactory, make_norm
from pytorch_dl.models.positions import Rotation


class Residual(nn.Module):
    """Add a sublayer's output to the stream, normalising before the sublayer or after the sum."""

    def __init__(self, norm: nn.Module, dropout: Dropout, *, norm_first: bool) -> None:
        super().__init__()
        self.norm, self.dropout, self.norm_first = norm, dropout, norm_first

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor], *, keys: Tensor | None) -> Tensor:
        """x (B, T, d) -> (B, T, d); `keys` (B, T) decide the dropout."""
        out = sublayer(self.norm(x) if self.norm_first else x)
        x = x + self.dropout(out, keys)
        return x if self.norm_first else self.norm(x)


class TransformerEncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer, each in a residual branch."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int | None = None,
        *,
        n_kv_heads: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation: str | Activation = "swiglu",
        norm_type: str | NormFactory = "rmsnorm",
        norm_first: bool = True,
        bias: bool = False,
        attention: str | AttentionFunction = "auto",
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(
            d_model, n_heads, n_kv_heads=n_kv_heads, bias=bias, dropout=attention_dropout, attention=attention
        )
        self.feed_forward = FeedForward(d_model, d_ff or 4 * d_model, activation=activation, dropout=dropout, bias=bias)
        self.self_residual, self.ff_residual = (
            Residual(
                make_norm(norm_type, d_model, bias=bias),
                Dropout(dropout, d_model, site=site),
                norm_first=norm_first,
            )
            for site in (1, 2)
        )

    def forward(
        self, x: Tensor, *, bias: Tensor | None = None, rotation: Rotation | None = None, keys: Tensor | None = None
    ) -> Tensor:
        """x (B, S, d) -> (B, S, d); attention bias (B, 1, S, S), dropout keys (B, S)."""
        x = self.self_residual(x, lambda y: self.self_attention(y, bias=bias, rotation=rotation), keys=keys)
        out: Tensor = self.ff_residual(x, lambda y: self.feed_forward(y, keys=keys), keys=keys)
        return out


class TransformerDecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's memory, and a feed-forward layer, each in a residual branch."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int | None = None,
        *,
        n_kv_heads: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation: str | Activation = "swiglu",
        norm_type: str | NormFactory = "rmsnorm",
        norm_first: bool = True,
        bias: bool = False,
        attention: str | AttentionFunction = "auto",
    ) -> None:
        super().__init__()
        self.self_attention, self.cross_attention = (
            MultiHeadAttention(
                d_model,
                n_heads,
                n_kv_heads=n_kv_heads,
                cross=cross,
                bias=bias,
                dropout=attention_dropout,
                attention=attention,
            )
            for cross in (False, True)
        )
        self.feed_forward = FeedForward(d_model, d_ff or 4 * d_model, activation=activation, dropout=dropout, bias=bias)
        self.self_residual, self.cross_residual, self.ff_residual = (
            Residual(
                make_norm(norm_type, d_model, bias=bias),
                Dropout(dropout, d_model, site=site),
                norm_first=norm_first,
            )
            for site in (1, 2, 3)
        )

    def forward(
        self,
        x: Tensor,
        memory: Tensor | KeyValue,
        *,
        self_bias: Tensor | None = None,
        cross_bias: Tensor | None = None,
        rotation: Rotation | None = None,
        keys: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, T, d), memory (B, S, d) or its keys and values -> (B, T, d).

        Attention biases are (B, 1, T, T) and (B, 1, T, S). Without `self_bias` every token sees every other: the mask
        makes it causal. With a cache, x holds one new token for each of T beams.
        """
        x = self.self_residual(
            x, lambda y: self.self_attention(y, bias=self_bias, rotation=rotation, cache=cache), keys=keys
        )
        x = self.cross_residual(x, lambda y: self.cross_attention(y, memory, bias=cross_bias), keys=keys)
        out: Tensor = self.ff_residual(x, lambda y: self.feed_forward(y, keys=keys), keys=keys)
        return out

    def project_memory(self, memory: Tensor) -> KeyValue:
        """memory (B, S, d) -> what decoding hands to `forward` at each step in its place."""
        return self.cross_attention.project_memory(memory)
