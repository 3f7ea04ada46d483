"""What one stream of pairs holds, counted in one pass: pairs, blanks, faults, lengths, hashes, tokens.

Memory: 28 bytes a pair (36 with tokens), no texts but samples of them.
"""

from __future__ import annotations  # array[int] has no meaning at run time in Python 3.11

import random
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytorch_dl.dataset.text_files import PairStream, TextSource, blank_side
from pytorch_dl.dataset.text_pair import Fault, FaultKind, TextPair
from pytorch_dl.errors import DataError

if TYPE_CHECKING:  # a check without tokenizers does not load their library
    from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair

SHOWN_FAULTS = 5  # of each kind
_ROUND_TRIPS = 200
_BEGINNINGS, _BEGINNING = 600, 200  # pairs, and characters of each side
_BATCH = 1024


@dataclass
class SideTokens:
    """The tokens of one side: their number in each pair, unknown ones, and what becomes of a sample of the texts."""

    tokenizer: Tokenizer
    counts: array[int] = field(default_factory=lambda: array("i"))
    unknown: int = 0
    tried: int = 0
    changed: list[tuple[str, str]] = field(default_factory=list)
    """Texts of the sample that encoding and decoding did not give back, with what they gave."""
    shown: list[tuple[str, list[str]]] = field(default_factory=list)
    """The first texts of the sample, with their tokens."""

    def add(self, texts: list[str]) -> None:
        """Encode and count."""
        for ids in self.tokenizer.encode_batch(texts):
            self.counts.append(len(ids))
            self.unknown += ids.count(self.tokenizer.unk_id)

    def try_round_trips(self, texts: list[str]) -> None:
        """Encode and decode; white space may change."""
        self.tried = len(texts)
        for text in texts:
            ids = self.tokenizer.encode(text)
            decoded = self.tokenizer.decode(ids)
            if decoded.split() != text.split():
                self.changed.append((text, decoded))
            if len(self.shown) < 2:
                self.shown.append((text, [_readable(self.tokenizer, id) for id in ids]))


@dataclass
class Survey:
    """One stream's counts; the arrays have one entry for each usable pair (readable, no side blank), in order."""

    name: str
    blank: Counter[str] = field(default_factory=Counter)
    """How many pairs have a blank "source", "target", "both"."""
    first_blank: int | None = None
    faults: Counter[FaultKind] = field(default_factory=Counter)
    shown_faults: list[Fault] = field(default_factory=list)
    unreadable: DataError | None = None
    lines: array[int] = field(default_factory=lambda: array("i"))
    src_lengths: array[int] = field(default_factory=lambda: array("i"))
    tgt_lengths: array[int] = field(default_factory=lambda: array("i"))
    src_hashes: array[int] = field(default_factory=lambda: array("q"))
    tgt_hashes: array[int] = field(default_factory=lambda: array("q"))
    src_tokens: SideTokens | None = None
    tgt_tokens: SideTokens | None = None
    beginnings: list[tuple[str, str]] = field(default_factory=list)
    """Of the two texts of each pair of a sample."""

    @property
    def pairs(self) -> int:
        """The number of usable pairs."""
        return len(self.lines)


def survey(stream: PairStream, *, tokenizers: TokenizerPair | None) -> Survey:
    """Read a stream once, past its faults where it can."""
    found = Survey(stream.name)
    if tokenizers is not None:
        found.src_tokens, found.tgt_tokens = SideTokens(tokenizers.src), SideTokens(tokenizers.tgt)
    waiting: list[TextPair] = []
    sample, beginnings = _Sample(_ROUND_TRIPS), _Sample(_BEGINNINGS, longest=_BEGINNING)
    try:
        for item in stream.scan() if isinstance(stream, TextSource) else stream:
            if isinstance(item, Fault):
                _add_fault(found, item)
            elif _add_pair(found, item):
                beginnings.add(item)
                if tokenizers is None:
                    continue
                waiting.append(item)
                sample.add(item)
                if len(waiting) == _BATCH:
                    _add_tokens(found, waiting)
                    waiting = []
    except DataError as error:  # of a stream that is not a TextSource, such as one side of a split
        found.unreadable = error
    _add_tokens(found, waiting)
    found.beginnings = [(pair.src, pair.tgt) for pair in beginnings.pairs]
    if found.src_tokens is not None and found.tgt_tokens is not None:
        found.src_tokens.try_round_trips([pair.src for pair in sample.pairs])
        found.tgt_tokens.try_round_trips([pair.tgt for pair in sample.pairs])
    return found


def numbers(values: array[int]) -> NDArray[Any]:
    """An array of a survey as NumPy sees it, without a copy."""
    return np.frombuffer(values, dtype=np.int32 if values.typecode == "i" else np.int64)


def _readable(tokenizer: Tokenizer, id: int) -> str:
    """A token as text, with \u2581 for each space before it; as it is where it stands for a part of a character."""
    token, text = tokenizer.token(id), tokenizer.decode([id]).strip()
    word = token.lstrip("\u2581\u0120")
    if (word and not text) or "\ufffd" in text:
        return token
    return "\u2581" * (len(token) - len(word)) + text


class _Sample:
    """At most `size` pairs, evenly drawn from a stream of unknown length, in each run the same; `longest` cuts them."""

    def __init__(self, size: int, *, longest: int | None = None) -> None:
        self.pairs: list[TextPair] = []
        self._size, self._longest = size, longest
        self._seen = 0
        self._random = random.Random(0).random

    def add(self, pair: TextPair) -> None:
        self._seen += 1
        place = len(self.pairs) if len(self.pairs) < self._size else int(self._random() * self._seen)
        if place < self._size:
            cut = TextPair(pair.src[: self._longest], pair.tgt[: self._longest], pair.line)
            self.pairs[place : place + 1] = [cut]


def _add_fault(found: Survey, fault: Fault) -> None:
    found.faults[fault.kind] += 1
    if found.faults[fault.kind] <= SHOWN_FAULTS:
        found.shown_faults.append(fault)


def _add_pair(found: Survey, pair: TextPair) -> bool:
    side = blank_side(pair)
    if side is not None:
        found.blank[side] += 1
        found.first_blank = found.first_blank or pair.line
        return False
    found.lines.append(pair.line)
    found.src_lengths.append(len(pair.src))
    found.tgt_lengths.append(len(pair.tgt))
    found.src_hashes.append(hash(pair.src))
    found.tgt_hashes.append(hash(pair.tgt))
    return True


def _add_tokens(found: Survey, pairs: list[TextPair]) -> None:
    if found.src_tokens is not None and found.tgt_tokens is not None:
        found.src_tokens.add([pair.src for pair in pairs])
        found.tgt_tokens.add([pair.tgt for pair in pairs])
