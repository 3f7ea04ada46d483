"""From a plan and token ids to batches: the tensors that the model sees.

Shapes: B rows, S source, T target, P pairs in the fullest row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pytorch_dl.dataset.bucketing import Ints
from pytorch_dl.dataset.planning import Plan
from pytorch_dl.errors import DataError

IGNORED_LABEL = -100  # no loss at these positions


@dataclass(frozen=True)
class Batch:
    """Rows of one pair each (padded) or several (packed). Segments: 0 is padding, 1.. the pair's number in its row."""

    src: Tensor  # (B, S)
    tgt_in: Tensor  # (B, T), begins with bos
    labels: Tensor  # (B, T), ends with eos, IGNORED_LABEL where there is padding
    src_segments: Tensor  # (B, S)
    tgt_segments: Tensor  # (B, T)
    src_positions: Tensor  # (B, S), restart at 0 in each pair
    tgt_positions: Tensor  # (B, T)
    pair_ids: Tensor  # (B, P), -1 where a row holds fewer pairs
    num_src_tokens: int
    num_tgt_tokens: int

    @classmethod
    def from_padded(cls, src: Tensor, tgt: Tensor, *, pad_id: int, first_pair: int = 0) -> Self:
        """Make a batch of src (B, S) and tgt (B, 1 + T), which holds bos, the text and eos, both padded at the end."""
        tgt_in, labels = tgt[:, :-1], tgt[:, 1:]
        real = labels != pad_id
        src_segments = (src != pad_id).long()
        for name, tokens in (("source", src), ("target", tgt)):
            _refuse_gaps((tokens != pad_id).long(), name, pad_id=pad_id, first_pair=first_pair)
        if (empty := real.any(1) & ~src_segments.any(1)).any():
            row = int(empty.nonzero()[0])
            raise DataError(f"pair {first_pair + row} has a target but no source token", fix="leave it out")
        return cls(
            src=src,
            tgt_in=tgt_in,
            labels=labels.where(real, IGNORED_LABEL),
            src_segments=src_segments,
            tgt_segments=real.long(),
            src_positions=torch.arange(src.size(1), device=src.device).expand_as(src),
            tgt_positions=torch.arange(tgt_in.size(1), device=tgt.device).expand_as(tgt_in),
            pair_ids=torch.arange(first_pair, first_pair + src.size(0), device=src.device).unsqueeze(1),
            num_src_tokens=int(src_segments.sum()),
            num_tgt_tokens=int(real.sum()),
        )

    def to(self, device: torch.device) -> Self:
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return self._each(lambda tensor: tensor.pin_memory())

    def clone(self) -> Self:
        """The batch in memory of its own."""
        return self._each(torch.Tensor.clone)

    def token_pairs(self, segments: Tensor) -> Tensor:
        """The pair id of each token of src_segments or tgt_segments, (B, S) or (B, T)."""
        return self.pair_ids.gather(1, (segments.long() - 1).clamp(min=0))

    @property
    def num_positions(self) -> int:
        """Positions of both sides, padding included."""
        return self.src.numel() + self.tgt_in.numel()

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors: dict[str, Any] = {name: change(v) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def _refuse_gaps(segments: Tensor, side: str, *, pad_id: int, first_pair: int) -> None:
    """Padding within a text would not be told from its end."""
    after_padding = segments.diff(dim=1) > 0
    if after_padding.any():
        row, place = after_padding.nonzero()[0].tolist()
        raise DataError(
            f"the {side} of pair {first_pair + row} has padding ({pad_id}) at place {place}, before a token",
            fix="pad at the end only, with an id that no token has",
        )


@dataclass(frozen=True)
class Special:
    """The ids that batching adds to the text's own."""

    pad_id: int
    bos_id: int
    eos_id: int


@dataclass(frozen=True)
class TokenIds:
    """Token ids of all pairs of one side: pair i is ids[offsets[i]:offsets[i + 1]]."""

    ids: NDArray[np.unsignedinteger]
    offsets: Ints


def token_ids_of(sentences: Sequence[Sequence[int]]) -> TokenIds:
    """Token ids of sentences in memory."""
    offsets = np.cumsum([0, *(len(ids) for ids in sentences)])
    return TokenIds(np.fromiter((id for ids in sentences for id in ids), dtype=np.uint32, count=offsets[-1]), offsets)


def collate(plan: Plan, index: int, src: TokenIds, tgt: TokenIds, special: Special) -> Batch:
    """Build batch `index` of a plan. Labels are shifted here and nowhere else."""
    rows = slice(plan.batch_starts[index], plan.batch_starts[index + 1])
    bounds = plan.row_starts[rows.start : rows.stop + 1]
    pairs = plan.pairs[bounds[0] : bounds[-1]]
    num_rows = plan.rows_per_batch or rows.stop - rows.start
    slots = _Slots.of(bounds - bounds[0])
    src_width, tgt_width = plan.widths or (None, None)
    source = _Side.of(slots, pairs, src, num_rows, src_width)
    target = _Side.of(slots, pairs, tgt, num_rows, tgt_width)
    pair_ids = np.full((num_rows, max(1, int(slots.segment.max(initial=0)))), -1, dtype=np.int64)
    pair_ids[slots.row, slots.segment - 1] = pairs
    return Batch(
        src=source.ending_in(special.eos_id, padding=special.pad_id),
        tgt_in=target.beginning_with(special.bos_id, padding=special.pad_id),
        labels=target.ending_in(special.eos_id, padding=IGNORED_LABEL),
        src_segments=source.segments,
        tgt_segments=target.segments,
        src_positions=source.positions,
        tgt_positions=target.positions,
        pair_ids=torch.from_numpy(pair_ids),
        num_src_tokens=source.num_tokens,
        num_tgt_tokens=target.num_tokens,
    )


@dataclass(frozen=True)
class _Slots:
    """The row of each pair of a batch, and its segment number there."""

    row: Ints
    segment: Ints

    @classmethod
    def of(cls, bounds: Ints) -> Self:
        row = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        return cls(row, np.arange(bounds[-1]) - bounds[row] + 1)


@dataclass(frozen=True)
class _Side:
    """One side of a batch while its tensors are filled: each token's place in the flat (rows * width) array."""

    shape: tuple[int, int]
    text: NDArray[np.unsignedinteger]  # the ids of all pairs, one after another, without the added one
    lengths: Ints  # of each pair, with the added one
    places: Ints  # of each token, in pairs' order
    pair_segments: Ints

    @classmethod
    def of(cls, slots: _Slots, pairs: Ints, texts: TokenIds, num_rows: int, width: int | None) -> Self:
        starts, lengths = texts.offsets[pairs], texts.offsets[pairs + 1] - texts.offsets[pairs] + 1
        ends = np.cumsum(lengths)
        first_of_row = np.flatnonzero(slots.segment == 1)
        row_starts = (ends - lengths)[first_of_row]  # tokens before each row
        width = width or int(np.add.reduceat(lengths, first_of_row).max())
        base = slots.row * width + (ends - lengths) - row_starts[slots.row]
        places = _ranges(base, lengths)
        return cls((num_rows, width), texts.ids[_ranges(starts, lengths - 1)], lengths, places, slots.segment)

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def segments(self) -> Tensor:
        return self._scatter(0, np.repeat(self.pair_segments, self.lengths))

    @property
    def positions(self) -> Tensor:
        return self._scatter(0, _ranges(np.zeros_like(self.lengths), self.lengths))

    def beginning_with(self, id: int, *, padding: int) -> Tensor:
        """The text of each pair behind one added id."""
        return self._fill(id, np.cumsum(self.lengths) - self.lengths, padding)

    def ending_in(self, id: int, *, padding: int) -> Tensor:
        """The text of each pair before one added id."""
        return self._fill(id, np.cumsum(self.lengths) - 1, padding)

    def _fill(self, added_id: int, places: Ints, padding: int) -> Tensor:
        values = np.empty(self.num_tokens, dtype=np.int64)
        is_text = np.ones(self.num_tokens, dtype=bool)
        is_text[places] = False
        values[is_text] = self.text
        values[places] = added_id
        return self._scatter(padding, values)

    def _scatter(self, padding: int, values: Ints) -> Tensor:
        flat = np.full(self.shape[0] * self.shape[1], padding, dtype=np.int64)
        flat[self.places] = values
        return torch.from_numpy(flat.reshape(self.shape))


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, ... for each start, as one array."""
    ends = np.cumsum(lengths)
    ranges: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return ranges
