"""Which pairs share a batch: the plan of an epoch.

A plan is a pure function of (lengths, options, seed, epoch), so there is no loader state to save: batch 317 of epoch 4
is the same batch whenever, wherever and however often it is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from pytorch_dl.dataset.bucketing import Ints, bucket_by_length
from pytorch_dl.dataset.packing import Widths, pack_rows
from pytorch_dl.errors import ConfigError, DataError

MANY_BATCHES = 400  # an epoch: a half-empty one more or less does not count
SPARE_ROWS = 0.001  # of the first epoch's: others need a few more or less
MORE_BATCHES = 0.05  # than the fewest, where they waste fewer rows


@dataclass(frozen=True)
class Lengths:
    """Tokens of each pair, with the one that batching adds to each side."""

    src: Ints
    tgt: Ints

    def take(self, pairs: Ints) -> "Lengths":
        """The lengths of some pairs."""
        return Lengths(self.src[pairs], self.tgt[pairs])


@dataclass(frozen=True)
class Plan:
    """An epoch: pairs in order, where each row starts among them, and where each batch starts among the rows."""

    pairs: Ints
    row_starts: Ints  # length rows + 1
    batch_starts: Ints  # length batches + 1
    widths: Widths | None  # of every row; None: as wide as the batch's longest
    rows_per_batch: int | None  # so many rows even in a batch that has fewer; None: as many as it has
    efficiency: float  # real tokens / all positions, both sides

    def __len__(self) -> int:
        return len(self.batch_starts) - 1


@dataclass(frozen=True)
class Planner:
    """Makes the plan of each epoch.

    kept       ids of the pairs that are short enough
    corpora    (start, stop, weight): pairs start..stop appear `weight` times an epoch
    batch_size pairs in a batch; None fills batches by tokens
    """

    lengths: Lengths
    kept: Ints
    corpora: Sequence[tuple[int, int, float]]
    seed: int
    max_tokens: int
    batch_size: int | None = None
    packed: bool = False

    def __post_init__(self) -> None:
        if (self.batch_size is None or self.packed) and self.longest > self.max_tokens:
            raise ConfigError(
                f"a pair has {self.longest} tokens, but data.max_tokens_per_batch is {self.max_tokens}",
                fix="raise it, or lower data.max_length",
            )

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest side of a pair."""
        kept = self.lengths.take(self.kept)
        return int(max(kept.src.max(initial=0), kept.tgt.max(initial=0)))

    @cached_property
    def fullest_widths(self) -> Widths:
        """Of rows that take most memory: all where they are packed, else one that is as long as any on both sides."""
        if not self.packed:
            return Widths(self.longest, self.longest)
        every = self.lengths.take(self.kept)
        return Widths.fitting(every.src, every.tgt, self.max_tokens)

    def plan(self, epoch: int) -> Plan:
        """The plan of one epoch; every kept pair of weight 1 is in it exactly once."""
        rng = np.random.default_rng([self.seed, epoch])
        pairs = rng.permutation(self._drawn(rng))
        if not len(pairs):
            raise DataError(f"no pair is drawn for epoch {epoch + 1}", fix="raise the weights of data.corpora")
        lengths = self.lengths.take(pairs)
        if self.packed:
            return self._packed(pairs, lengths, rng)
        if self.batch_size is None:
            batches = [pairs[part] for part in bucket_by_length(lengths.src, lengths.tgt, self.max_tokens)]
            batches = [batches[index] for index in rng.permutation(len(batches))]
        else:
            batches = [pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size)]
        return self._padded(batches)

    def _drawn(self, rng: np.random.Generator) -> Ints:
        """Each corpus as often as it weighs; of a fraction, another sample each epoch."""
        drawn = []
        for start, stop, weight in self.corpora:
            own = self.kept[(self.kept >= start) & (self.kept < stop)]
            whole = int(weight)
            drawn += [own] * whole
            drawn.append(rng.permutation(own)[: round((weight - whole) * len(own))])
        return np.concatenate(drawn)

    def _padded(self, batches: list[Ints]) -> Plan:
        pairs = np.concatenate(batches)
        starts = np.cumsum([0, *(len(batch) for batch in batches)])
        plan = Plan(pairs, np.arange(len(pairs) + 1), starts, None, None, 0.0)
        lengths, (rows, src, tgt) = self.lengths.take(pairs), self.shapes(plan)
        efficiency = float((lengths.src.sum() + lengths.tgt.sum()) / ((src + tgt) * rows).sum())
        return replace(plan, efficiency=efficiency)

    def shapes(self, plan: Plan) -> tuple[Ints, Ints, Ints]:
        """Rows, source width and target width of each batch of a plan of padded rows."""
        lengths, starts = self.lengths.take(plan.pairs), plan.batch_starts
        src, tgt = (np.maximum.reduceat(side, starts[:-1]) for side in (lengths.src, lengths.tgt))
        return np.diff(starts), src, tgt

    def _packed(self, pairs: Ints, lengths: Lengths, rng: np.random.Generator) -> Plan:
        widths, per_batch = self._shape
        rows = [pairs[row] for row in pack_rows(lengths.src, lengths.tgt, widths)]
        rows = [rows[index] for index in rng.permutation(len(rows))]
        batches = -(-len(rows) // per_batch)
        batch_starts = np.linspace(0, len(rows), batches + 1).astype(np.int64)  # no last batch of a few rows
        positions = batches * per_batch * sum(widths)
        efficiency = float((lengths.src.sum() + lengths.tgt.sum()) / positions)
        row_starts = np.cumsum([0, *(len(row) for row in rows)])
        return Plan(np.concatenate(rows), row_starts, batch_starts, widths, per_batch, efficiency)

    @cached_property
    def _shape(self) -> tuple[Widths, int]:
        """Widths of the rows and rows of a batch: the same in all epochs, so that kernels see one shape.

        With few batches an epoch, such that the first epoch's rows fill them.
        """
        rng = np.random.default_rng([self.seed, 0])
        lengths = self.lengths.take(rng.permutation(self._drawn(rng)))
        widths = self.fullest_widths
        most = max(1, self.max_tokens // max(widths))
        least = max(int(lengths.src.sum()) // widths.src, int(lengths.tgt.sum()) // widths.tgt)
        if least > MANY_BATCHES * most:
            return widths, most
        rows = int(len(pack_rows(lengths.src, lengths.tgt, widths)) * (1 + SPARE_ROWS))
        fewest = -(-rows // most)
        counts = range(fewest, int(fewest * (1 + MORE_BATCHES)) + 1)
        batches = min(counts, key=lambda count: count * -(-rows // count))
        return widths, -(-rows // batches)
