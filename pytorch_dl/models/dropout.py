"""Dropout whose mask is a function, not a draw: a hash of (key of the token, site in the model, feature).

The key of a token is itself a hash of (seed, step, pair, side, position), so a pair is dropped alike in whatever row,
batch or process it lies, and there is no generator state to save. Without keys, torch's own dropout is used.

Shapes: B batch, T tokens, d features.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 64-bit golden ratio, as a signed number


def mix(x: Tensor) -> Tensor:
    """Scramble int64 numbers such that each input bit moves each output bit (splitmix64, Steele et al. 2014)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def mix_number(*numbers: int) -> int:
    """Hash Python integers to one signed 64-bit number, without a tensor: `mix` in Python."""
    state = 0
    for number in numbers:
        state = (state + number + _GOLDEN) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return _signed(state)


def token_keys(base: int, pair_ids: Tensor, positions: Tensor) -> Tensor:
    """Return one int64 key for each token from `base` (seed, step, side), pair ids (B, T) and positions (B, T)."""
    return mix(mix(pair_ids + base) + positions * _GOLDEN)  # (B, T)


class Dropout(nn.Module):
    """Zero a share `p` of the features and scale up the rest; `site` tells the dropouts of one layer apart.

    A feature's number is (half of the key + a) * (other half ^ b) modulo 2^32, with its own a and b, and it is dropped
    when that is small: a product's high bits depend on all bits of both factors. No shift, so that compilers vectorise
    it; cheap enough to be computed again in the backward pass rather than kept.
    """

    lanes: Tensor

    def __init__(self, p: float, features: int, *, site: int) -> None:
        super().__init__()
        self.p = p
        numbers = mix(mix(torch.arange(features, dtype=torch.int64)) + (site << 32))
        self.register_buffer("lanes", _halves(numbers).T.contiguous(), persistent=False)  # (2, d)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """x (B, T, d) -> the same shape; `keys` (B, T) decide what is dropped, without them torch's generator."""
        if not self.training or self.p == 0.0:
            return x
        if keys is None:
            return F.dropout(x, self.p)
        halves = _halves(keys)
        numbers = (halves[..., :1] + self.lanes[0]).mul_(halves[..., 1:] ^ self.lanes[1])  # (B, T, d)
        keep = numbers >= min(round(self.p * 2**32), 2**32 - 1) - 2**31
        return x * keep.to(x.dtype).mul_(1.0 / (1.0 - self.p))


def _halves(numbers: Tensor) -> Tensor:
    """int64 numbers (...) -> int32 numbers (..., 2)."""
    return numbers.unsqueeze(-1).view(torch.int32)


def _signed(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
