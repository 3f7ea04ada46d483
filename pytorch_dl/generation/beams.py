"""The prefixes that a search holds, on the host: plain arrays, one row for each sentence.

Shapes: B sentences, K beams, C candidates, T room for tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass
class Beams:
    """Prefixes of the sentences of a batch; -inf marks a beam that holds nothing."""

    limits: Ints  # (B,): the most tokens, eos included
    lengths: Ints  # (B,): tokens written
    totals: Floats  # (B, K): log-probabilities
    tokens: Ints  # (B, K): the last token
    prefixes: Ints  # (B, K, T)
    gains: Floats  # (B, K, T): log-probability of each token
    found: Ints  # (B,): how many hypotheses are finished
    best: Floats  # (B,): their highest score

    @classmethod
    def first(cls, limits: Sequence[int], *, beams: int, all_alive: bool, bos_id: int) -> Self:
        """Empty prefixes: one for each sentence, or one on each of its beams."""
        count = len(limits)
        totals = np.full((count, beams), 0.0 if all_alive else -np.inf)
        totals[:, 0] = 0.0
        return cls(
            limits=np.array(limits, dtype=np.int64),
            lengths=np.zeros(count, dtype=np.int64),
            totals=totals,
            tokens=np.full((count, beams), bos_id, dtype=np.int64),
            prefixes=np.zeros((count, beams, 0), dtype=np.int64),
            gains=np.zeros((count, beams, 0)),
            found=np.zeros(count, dtype=np.int64),
            best=np.full(count, -np.inf),
        )

    def __len__(self) -> int:
        return len(self.limits)

    def take(self, rows: Ints) -> "Beams":
        """These rows alone."""
        return Beams(*(getattr(self, part.name)[rows] for part in fields(self)))

    def join(self, other: "Beams") -> "Beams":
        """The rows of both."""
        room = max(self.prefixes.shape[2], other.prefixes.shape[2])
        pairs = ((getattr(self.roomy(room), f.name), getattr(other.roomy(room), f.name)) for f in fields(self))
        return Beams(*(np.concatenate(pair) for pair in pairs))

    def roomy(self, room: int) -> "Beams":
        """With room for at least so many tokens."""
        more = room - self.prefixes.shape[2]
        if more > 0:
            width = ((0, 0), (0, 0), (0, more))
            self.prefixes, self.gains = np.pad(self.prefixes, width), np.pad(self.gains, width)
        return self

    def prefix(self, row: int, beam: int) -> list[int]:
        """The tokens of one beam."""
        ids: list[int] = self.prefixes[row, beam, : self.lengths[row]].tolist()
        return ids

    def gains_of(self, row: int, beam: int) -> list[float]:
        """The log-probabilities of those tokens."""
        gains: list[float] = self.gains[row, beam, : self.lengths[row]].tolist()
        return gains

    def advance(self, candidates: "Candidates") -> None:
        """Go on with the candidates that live on."""
        rows, longest = np.arange(len(self))[:, None], int(self.lengths.max(initial=0))
        if longest == self.prefixes.shape[2]:
            self.roomy(max(16, 2 * longest))
        live = candidates.live
        parents, tokens, gains = (
            candidates.parents[rows, live],
            candidates.tokens[rows, live],
            candidates.gains[rows, live],
        )
        self.prefixes[..., :longest] = self.prefixes[rows, parents, :longest]
        self.gains[..., :longest] = self.gains[rows, parents, :longest]
        beams = np.arange(tokens.shape[1])
        self.prefixes[rows, beams, self.lengths[:, None]] = tokens
        self.gains[rows, beams, self.lengths[:, None]] = gains
        self.totals, self.tokens = candidates.totals[rows, live], tokens
        self.lengths += 1


class Candidates(NamedTuple):
    """Extensions of prefixes by one token, best first, and what becomes of them."""

    parents: Ints  # (B, C): the beam that each extends
    tokens: Ints  # (B, C)
    gains: Floats  # (B, C): log-probability of the token
    totals: Floats  # (B, C): of all tokens; -inf: none
    ended: Bools  # (B, C): those that are hypotheses now
    live: Ints  # (B, K): those that go on, as places among the C
