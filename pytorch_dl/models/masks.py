"""The one mask rule: padding, packing, causality and cross-attention.

Segments number the pairs of a row from 1; 0 is padding. A token attends to the tokens of its own pair. Padding may look
anywhere, so that no row of the softmax is empty, and nobody looks at it. True = attend.

Shapes: B batch, T queries, S keys.
"""

import torch
from torch import Tensor


def segment_mask(queries: Tensor, keys: Tensor, *, causal: bool = False) -> Tensor:
    """Segments of queries (B, T) and keys (B, S) -> who attends to whom, (B, 1, T, S)."""
    query, key = queries.unsqueeze(-1), keys.unsqueeze(-2)
    mask = (query == key) | (query == 0)  # (B, T, S)
    if causal:
        mask = mask & torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril()
    return mask.unsqueeze(1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask into the bias that is added to attention scores: 0 to attend, -inf not to."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))


def padding_segments(tokens: Tensor, pad_token_id: int) -> Tensor:
    """Segments of a padded batch (B, T) with one pair to a row: 1 up to the last token that is not padding."""
    real = (tokens != pad_token_id).int()
    return real.flip(-1).cummax(-1).values.flip(-1)


def refuse_empty(segments: Tensor) -> None:
    """Raise when a row (B, S) holds no token: a target that attended to it would be nothing over nothing.

    An exported or compiled model does not look: what to raise would depend on the data.
    """
    if torch.compiler.is_compiling():
        return
    empty = (segments == 0).all(-1)
    if empty.any():
        raise ValueError(f"row {int(empty.nonzero()[0])} of the source holds nothing but padding; leave it out")


def segment_positions(segments: Tensor) -> Tensor:
    """Positions (B, T) that restart at 0 wherever the segment changes."""
    index = torch.arange(segments.size(-1), device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[..., 1:] = segments[..., 1:] != segments[..., :-1]
    return index - torch.where(starts, index, 0).cummax(-1).values
