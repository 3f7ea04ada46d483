"""How a token's place in its sequence is told to the model.

A position scheme is a module called with embeddings and positions; it returns the embeddings, perhaps changed, and the
rotation that self-attention applies to queries and keys, or None.

Shapes: B batch, T tokens, d d_model, D head_dim.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rotation(NamedTuple):
    """Cosine and sine of each token's rotation, both (B, 1, T, D / 2), or (1, 1, 1, D / 2) for a single step."""

    cos: Tensor
    sin: Tensor


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each pair (first half, second half) of features of x (B, H, T, D) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class RotaryPositions(nn.Module):
    """Rotary positions: attention scores depend on relative distance (Su et al. 2021, arXiv:2104.09864)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, max_seq_len: int, *, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even head width, got d_model / n_heads = {head_dim}")
        self.base = base
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), frequencies)
        self.register_buffer("cos", angles.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin", angles.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        """x (B, T, d) and positions (B, T) -> x and the rotation of each token."""
        return x, Rotation(self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1))


class SinusoidalPositions(nn.Module):
    """Fixed sines and cosines added to the embedding (Vaswani et al. 2017, section 3.5)."""

    table: Tensor

    def __init__(self, d_model: int, max_seq_len: int) -> None:
        super().__init__()
        if d_model % 2:
            raise ValueError(f"sinusoidal positions need an even d_model, got {d_model}")
        frequencies = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10000.0) / d_model))
        angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), frequencies)
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)  # (max_seq_len, d), sine, cosine in turn
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        """x (B, T, d) and positions (B, T) -> x with the table's rows added."""
        return x + self.table[positions].to(x.dtype), None


class LearnedPositions(nn.Module):
    """One learned vector for each position, added to the embedding."""

    def __init__(self, d_model: int, max_seq_len: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_seq_len, d_model).normal_(std=d_model**-0.5))

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Rotation | None]:
        """x (B, T, d) and positions (B, T) -> x with the learned rows added."""
        return x + self.weight[positions].to(x.dtype), None


PositionFactory = Callable[[int, int, int], nn.Module]  # (d_model, head_dim, max_seq_len) -> a position scheme
POSITIONS: dict[str, PositionFactory] = {
    "rope": lambda d_model, head_dim, max_seq_len: RotaryPositions(head_dim, max_seq_len),
    "sinusoidal": lambda d_model, head_dim, max_seq_len: SinusoidalPositions(d_model, max_seq_len),
    "learned": lambda d_model, head_dim, max_seq_len: LearnedPositions(d_model, max_seq_len),
}
