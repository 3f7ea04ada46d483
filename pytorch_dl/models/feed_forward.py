"""The feed-forward layer, plain or gated.

Shapes: B batch, T tokens, d d_model, W width.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models.dropout import Dropout
from pytorch_dl.models.linear import linear
from pytorch_dl.models.variants import named

Activation = Callable[[Tensor], Tensor]
PLAIN: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu}
GATED: dict[str, Activation] = {"swiglu": F.silu, "geglu": F.gelu}


def gated_width(d_ff: int) -> int:
    """Width of a gated layer with as many parameters as a plain one of width d_ff: 2/3 of it, in eights."""
    return max(8, (2 * d_ff // 3 + 7) // 8 * 8)


class FeedForward(nn.Module):
    """Two linear layers around an activation; gated ones multiply by a third (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, d_model: int, d_ff: int, *, activation: str | Activation, dropout: float, bias: bool) -> None:
        super().__init__()
        self.gated = isinstance(activation, str) and activation in GATED
        self.activation = (
            named({**PLAIN, **GATED}, activation, argument="activation") if isinstance(activation, str) else activation
        )
        width = gated_width(d_ff) if self.gated else d_ff
        inner = 2 * width if self.gated else width  # gate and value in one product
        self.in_proj = linear(d_model, inner, bias=bias)
        self.out_proj = linear(width, d_model, bias=bias)
        self.dropout = Dropout(dropout, width, site=0)

    def forward(self, x: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """x (B, T, d) -> (B, T, d); `keys` (B, T) decide the dropout."""
        h = self.in_proj(x)  # (B, T, W) or (B, T, 2W)
        if self.gated:
            gate, value = h.chunk(2, dim=-1)
            h = self.activation(gate) * value  # (B, T, W)
        else:
            h = self.activation(h)
        out: Tensor = self.out_proj(self.dropout(h, keys))
        return out
