"""Dropout whose mask is a function, not a draw: a hash of (key of the token, site in the model, feature).

The key of a token is itself a hash of (seed, step, pair, side, position), so a pair is dropped alike in whatever row,
batch or process it lies, and there is no generator state to save. Without keys, torch's own dropout is used.

Shapes: B batch, T tokens, d features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 64-bit golden ratio, as a signed number
_LANES = 4  # 16-bit numbers in one 64-bit hash


def mix(x: Tensor) -> Tensor:
    """Scramble int64 numbers such that each input bit moves each output bit (splitmix64, Steele et al. 2014)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def mix_number(*numbers: int) -> int:
    """Hash Python integers to one signed 64-bit number."""
    state = 0
    for number in numbers:
        state = int(mix(torch.tensor(_signed(state + number + _GOLDEN))).item())
    return state


def token_keys(base: int, pair_ids: Tensor, positions: Tensor) -> Tensor:
    """Return one int64 key for each token from `base` (seed, step, side), pair ids (B, T) and positions (B, T)."""
    return mix(mix(pair_ids + base) + positions * _GOLDEN)  # (B, T)


def dropout(x: Tensor, p: float, *, training: bool, keys: Tensor | None, site: int) -> Tensor:
    """Zero a share `p` of x (B, T, d) and scale up the rest; `keys` (B, T) decide which, else torch's generator."""
    if not training or p == 0.0:
        return x
    if keys is None:
        return F.dropout(x, p)
    keep = _uniform16(keys, site, x.size(-1)) >= min(round(p * 65536), 65535) - 32768
    return x * keep.to(x.dtype).mul_(1.0 / (1.0 - p))


def _uniform16(keys: Tensor, site: int, features: int) -> Tensor:
    """Return evenly distributed int16 numbers (B, T, features): four of them to one 64-bit hash.

    Keys and lanes are well mixed already, so one multiplication does, by an odd number of each lane's own.
    """
    lanes = mix(torch.arange(-(-features // _LANES), device=keys.device) + (site << 32)) | 1
    bits = (keys.unsqueeze(-1) + lanes) * lanes  # (B, T, features / 4)
    bits = bits ^ ((bits >> 32) & 0xFFFFFFFF)  # the low bits of a product know little of its high ones
    return bits.view(torch.int16)[..., :features]


def _signed(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
