"""Validation pairs held out of the training text such that no source text is on both sides, in whichever corpus it is.

The side of a pair is told by a hash of its source text and the seed alone, so it is the same in every run. Memory: 8
bytes a pair while choosing (and three times that for a moment), a set of the chosen hashes afterwards.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytorch_dl.dataset.text_files import PairStream, TextPair
from pytorch_dl.errors import DataError


@dataclass(frozen=True)
class HeldOut:
    """A PairStream: the pairs of `streams` whose source is (side "val") or is not (side "train") among `sources`."""

    streams: tuple[PairStream, ...]
    seed: int
    sources: frozenset[int]
    side: Literal["train", "val"]
    weight: float

    @property
    def name(self) -> str:
        """The streams and the side."""
        return f"{', '.join(stream.name for stream in self.streams)} ({self.side} side)"

    @property
    def dropped(self) -> int:
        """How many blank pairs the last pass left out: they are on the training side, which is read for itself."""
        return sum(stream.dropped for stream in self.streams) if self.side == "train" else 0

    def __iter__(self) -> Iterator[TextPair]:
        for stream in self.streams:
            for pair in stream:
                if (source_hash(pair.src, seed=self.seed) in self.sources) == (self.side == "val"):
                    yield pair

    def fingerprint(self) -> str:
        """Hex SHA-256 over the streams' fingerprints, the side, the seed and the sources held out."""
        parts = [[stream.fingerprint() for stream in self.streams], self.side, self.seed, sorted(self.sources)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def hold_out(streams: Sequence[PairStream], *, count: int, seed: int) -> tuple[list[HeldOut], HeldOut]:
    """Split `streams` into their training sides (one each, with its weight) and one validation side of `count` pairs.

    Pairs with equal sources stay together, so where no choice of such groups gives exactly `count` pairs, the largest
    number below it that one gives is held out. A DataError when that is none, or when nothing is left to train on.
    """
    where = ", ".join(stream.name for stream in streams)
    hashes = _hashes(streams, seed=seed)
    if not 0 < count < len(hashes):
        what = f"cannot hold out {count} of {len(hashes)} pairs"
        raise DataError(what, where=where, fix=f"hold out between 1 and {max(len(hashes) - 1, 1)} pairs")
    sources, sizes = np.unique(hashes, return_counts=True)
    chosen = _choose(sizes, count=count)
    if not chosen:
        what = f"cannot hold out {count} pairs: each source text occurs at least {sizes.min()} times"
        raise DataError(what, where=where, fix=f"hold out at least {sizes.min()} pairs, or name a validation file")
    held = frozenset(sources[chosen].tolist())
    train = [HeldOut((stream,), seed, held, "train", stream.weight) for stream in streams]
    return train, HeldOut(tuple(streams), seed, held, "val", 1.0)


def source_hash(text: str, *, seed: int) -> int:
    """A number of 64 bits, the same for equal texts and seeds on every machine."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "little")


def _hashes(streams: Iterable[PairStream], *, seed: int) -> NDArray[np.uint64]:
    hashes = array("Q", (source_hash(pair.src, seed=seed) for stream in streams for pair in stream))
    return np.frombuffer(hashes, dtype=np.uint64)


def _choose(sizes: NDArray[np.int64], *, count: int) -> list[int]:
    """Indices of groups, in order where possible, whose sizes sum up to `count` or to the most below it."""
    chosen: list[int] = []
    left = count
    for index, size in enumerate(sizes.tolist()):
        if size <= left:
            chosen.append(index)
            left -= size
            if left == 0:
                return chosen
    return _choose_exactly(sizes, count=count)


def _choose_exactly(sizes: NDArray[np.int64], *, count: int) -> list[int]:
    """The same by dynamic programming over the sums: bit s of `reached` says that some groups sum up to s."""
    reached, within = 1, (1 << (count + 1)) - 1
    last: dict[int, int] = {}  # the group that first made a sum possible; the rest of that sum came before it
    used: dict[int, int] = {}
    for index, size in enumerate(sizes.tolist()):
        used[size] = used.get(size, 0) + 1
        if used[size] * size > count:  # more groups of one size than fit
            continue
        new = (reached << size) & within & ~reached
        reached |= new
        while new:
            total = new.bit_length() - 1
            last[total] = index
            new ^= 1 << total
    chosen, total = [], reached.bit_length() - 1
    while total:
        chosen.append(last[total])
        total -= int(sizes[last[total]])
    return chosen
