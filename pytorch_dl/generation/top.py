"""The largest values of a row, ties by index, on rows as long as a vocabulary.

Shapes: V values, C asked for, M blocks.
"""

import torch
from torch import Tensor

_SPARE = 16  # values fetched beyond those asked for, so that ties at the edge are nearly always all in sight
_BLOCK = 16  # values of which only the largest is looked at first


def top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Like `torch.topk` along the last dimension, but equal values come in the order of their index."""
    size = values.size(-1)
    count = min(count, size)
    best, index = _largest(values, min(count + _SPARE, size))
    if best.size(-1) < size and (best[..., count - 1] == best[..., -1]).any():  # there may be more ties out of sight
        best, index = values.sort(dim=-1, descending=True, stable=True)
        return best[..., :count], index[..., :count]
    index, order = index.sort(dim=-1)
    best, order = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return best[..., :count], index.gather(-1, order)[..., :count]


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`torch.topk`, which on a CPU is slow on long rows: the C largest lie in the C blocks with the largest maxima."""
    blocks = values.size(-1) // _BLOCK
    if values.is_cuda or blocks <= 2 * count:
        return values.topk(count, dim=-1)
    whole = values[..., : blocks * _BLOCK].reshape(*values.shape[:-1], blocks, _BLOCK)  # (..., M, block)
    chosen = whole.amax(-1).topk(count, dim=-1).indices  # (..., C)
    index = chosen.unsqueeze(-1) * _BLOCK + torch.arange(_BLOCK, device=values.device)  # (..., C, block)
    index = index.flatten(-2)
    rest = torch.arange(blocks * _BLOCK, values.size(-1), device=values.device)
    index = torch.cat([index, rest.expand(*index.shape[:-1], -1)], dim=-1)
    best, place = values.gather(-1, index).topk(count, dim=-1)
    return best, index.gather(-1, place)
