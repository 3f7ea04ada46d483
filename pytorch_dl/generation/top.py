"""The largest values of a row, ties by index, on rows as long as a vocabulary.

Shapes: V values, C asked for, M classes.
"""

import torch
from torch import Tensor

_SPARES = (4, 32)  # values fetched beyond those asked for, and if need be more: all ties at the edge must be in sight
_CLASS = 16  # values of which only the largest is looked at first


def top(values: Tensor, count: int, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest of values (B, K, V) + offsets (B, K) over K and V together, as if all stood in one row.

    Returns them and their places in that row, (B, min(C, K V)), best first, equal ones by place.
    """
    size = values.size(-2) * values.size(-1)
    count = min(count, size)
    for spare in _SPARES:
        best, place = _largest(values, min(count + spare, size), offsets)
        if best.size(-1) == size or not (best[..., count - 1] == best[..., -1]).any():
            place, order = place.sort(dim=-1)
            best, order = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
            return best[..., :count], place.gather(-1, order)[..., :count]
    whole = values if offsets is None else values + offsets.unsqueeze(-1)
    best, place = whole.flatten(-2).sort(dim=-1, descending=True, stable=True)
    return best[..., :count], place[..., :count]


def _largest(values: Tensor, count: int, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Without an order among equals.

    `torch.topk` is slow on long rows on a CPU. The values of a row are divided into M classes, of every M-th value: the
    C largest values lie in the C classes with the largest maxima, or behind the last whole class.
    """
    batch, beams, vocabulary = values.shape
    classes = vocabulary // _CLASS
    if values.is_cuda or beams * classes <= 2 * count:
        whole = values if offsets is None else values + offsets.unsqueeze(-1)
        return whole.flatten(-2).topk(count, dim=-1)
    maxima = values[..., : classes * _CLASS].reshape(batch, beams, _CLASS, classes).amax(-2)  # (B, K, M)
    maxima = maxima if offsets is None else maxima + offsets.unsqueeze(-1)
    chosen = maxima.flatten(-2).topk(count, dim=-1).indices.unsqueeze(-1)  # (B, C, 1)
    starts = chosen // classes * vocabulary + chosen % classes
    place = (starts + torch.arange(0, classes * _CLASS, classes, device=values.device)).flatten(-2)
    rest = torch.arange(classes * _CLASS, vocabulary, device=values.device)
    if len(rest):
        rest = (torch.arange(0, beams * vocabulary, vocabulary, device=values.device).unsqueeze(-1) + rest).flatten()
        place = torch.cat([place, rest.expand(batch, -1)], dim=-1)
    found = values.flatten(-2).gather(-1, place)
    found = found if offsets is None else found + offsets.gather(-1, place // vocabulary)
    best, order = found.topk(count, dim=-1)
    return best, place.gather(-1, order)


def highest(values: Tensor) -> tuple[Tensor, Tensor]:
    """Like `torch.max` over the last dimension, of equal values the first: by numpy on a CPU, which is faster there."""
    if values.is_cuda:
        return values.max(-1)
    if values.dtype == torch.bfloat16:
        # Positive numbers are ordered as their bits are, read as integers, and those of negative ones are below them.
        # NaN is among them where it has no sign; with one, it is found where no number of the row is positive.
        place = torch.from_numpy(values.view(torch.int16).numpy().argmax(-1))
        best = values.gather(-1, place.unsqueeze(-1)).squeeze(-1)
        if (best > 0).all():
            return best, place
    values = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    place = torch.from_numpy(values.numpy().argmax(-1))
    return values.gather(-1, place.unsqueeze(-1)).squeeze(-1), place
