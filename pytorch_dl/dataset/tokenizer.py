"""Text to token ids and back: tokenizers trained here, or pretrained ones, saved in one form.

Four ids are special and different: padding, begin, end, unknown. Encoding adds none of them, and no text can spell one.
A tokenizer is its definition, the JSON of Hugging Face `tokenizers`; a folder holds one for both sides, or two.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from pytorch_dl.config.load import nearest
from pytorch_dl.dataset.pretrained_process import load_pretrained
from pytorch_dl.dataset.text_files import PairStream
from pytorch_dl.dataset.tokenizer_folder import (
    META,
    ROLES,
    SEPARATE,
    SHARED,
    Definition,
    read_tokenizer_folder,
    write_tokenizer_folder,
)
from pytorch_dl.dataset.tokenizer_training import SPECIALS, TRAINERS, evenly_sampled, train
from pytorch_dl.errors import CheckpointError, ConfigError, DataError

Report = Callable[[str], None]
_MOST_GROWTH = 1000.0  # of a text, by replacements; published ones have at most 3


class Tokenizer:
    """Encodes text as ids without special ones, and decodes ids; `where` names its origin in error messages."""

    def __init__(self, definition: Definition, *, where: str) -> None:
        self.definition, self._where = definition, where
        self._backend = _backend(definition.json, where)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = _special_ids(definition.specials, vocabulary, where)
        self.vocab_size = max(vocabulary.values()) + 1
        self._control = {self.pad_id, self.bos_id, self.eos_id}
        self._special = {*self._control, self.unk_id}
        parts = json.loads(definition.json)
        if (growth := _growth([parts.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")])) > _MOST_GROWTH:
            raise _refusal(f"its replacements can make a text {growth:.3g} times longer", where)
        self._of_bytes = "ByteLevel" in repr(self._backend.decoder)

    def encode(self, text: str) -> list[int]:
        """The ids of one text."""
        with self._failures():
            return self._without_control(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores; between calls TOKENIZERS_PARALLELISM is false where it was not set."""
        with _all_cores(), self._failures():
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._without_control(one.ids) for one in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special ones left out; bytes that are not UTF-8 become U+FFFD."""
        with self._failures():
            return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of ids."""
        return [self.decode(ids) for ids in batch]

    def ids(self) -> dict[str, int]:
        """The id of each token, special ones included."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def token(self, id: int) -> str:
        """The token of an id below vocab_size; an id that the vocabulary leaves out has a name that says so."""
        if not 0 <= id < self.vocab_size:
            raise IndexError(f"token id {id} is outside the vocabulary of {self.vocab_size}")
        token = self._backend.id_to_token(id)
        return f"<unused_{id}>" if token is None else str(token)

    def piece(self, id: int) -> str:
        """A token as people read it: with its spaces; bytes that are no whole characters become U+FFFD."""
        token = self.token(id)
        if id in self._special or not self._of_bytes:
            return token
        return str(tokenizers.decoders.ByteLevel().decode([token]))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each token of `encode` stands: its first character and the one after its last."""
        with self._failures():
            return list(self._backend.encode(text, add_special_tokens=False).offsets)

    def decoded_spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Where in the text of `decode` each token stands; a part of a character stands where the character does."""
        spans, end, length = [], 0, len(self.decode(ids))
        for count in range(1, len(ids) + 1):
            start, end = end, min(max(end, len(self.decode(ids[:count]))), length)
            spans.append((min(start, max(0, end - 1)), end))
        return spans

    def fingerprint(self) -> str:
        """Hex SHA-256 of the definition."""
        definition = json.dumps([self.definition.json, self.definition.specials], sort_keys=True)
        return hashlib.sha256(definition.encode()).hexdigest()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Tell of a definition that fails on some text: it has no token for the unknown, or a pattern without end."""
        try:
            yield
        except BaseException as error:  # a panic of the library is no Exception
            if type(error) is Exception or type(error).__name__ == "PanicException":
                raise _refusal(f"it fails on this text ({error})", self._where) from error
            raise

    def _without_control(self, ids: list[int]) -> list[int]:
        # Only a pretrained model that has a special token as an ordinary piece of one character comes to this.
        if self._control.isdisjoint(ids):
            return ids
        return [self.unk_id if id in self._control else id for id in ids]


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of both sides: the same object where the vocabulary is shared."""

    src: Tokenizer
    tgt: Tokenizer

    def __post_init__(self) -> None:
        got, expected = ([side.pad_id, side.bos_id, side.eos_id] for side in (self.src, self.tgt))
        if got != expected:  # batches and models have one id for each
            raise CheckpointError(
                f"the pad, bos and eos ids of the source are {got}, expected those of the target, {expected}",
                fix="choose two tokenizers with the same special ids, or one for both sides",
            )

    @property
    def shared(self) -> bool:
        """Whether one vocabulary serves both sides."""
        return self.src is self.tgt

    def save(self, folder: Path) -> None:
        """Write `folder`, replacing an old one."""
        names = SHARED if self.shared else SEPARATE
        sides = (self.src, self.tgt)
        write_tokenizer_folder(folder, {name: side.definition for name, side in zip(names, sides, strict=False)})

    @classmethod
    def load(cls, folder: Path) -> "TokenizerPair":
        """Read what `save` wrote; anything else is a CheckpointError."""
        sides = [Tokenizer(definition, where=str(folder)) for definition in read_tokenizer_folder(folder)]
        return cls(sides[0], sides[-1])


def build_tokenizers(
    streams: Sequence[PairStream], *, name: str, vocab_size: int, shared: bool, report: Report | None = None
) -> TokenizerPair:
    """Train "bpe", "unigram", "char" or "byte" on the pairs, or take over the pretrained tokenizer or folder `name`.

    A pretrained one keeps its own vocabulary size; where the vocabulary is not shared, it serves each side by itself. A
    folder that `TokenizerPair.save` wrote is loaded as it is: with a tokenizer for each side it needs `shared` false.
    """
    report = report or (lambda _: None)
    if name in TRAINERS:
        sides = [(0, 1)] if shared else [(0,), (1,)]
        trained = [_trained(streams, sides=which, name=name, vocab_size=vocab_size, report=report) for which in sides]
        return TokenizerPair(trained[0], trained[-1])
    refuse_misspelt(name)
    if (Path(name) / META).is_file():
        pair = TokenizerPair.load(Path(name))
    else:
        pretrained = Tokenizer(load_pretrained(name), where=name)
        pair = TokenizerPair(pretrained, pretrained)
    report(f"tokenizer: {name} with {pair.src.vocab_size:,} tokens")
    if shared and not pair.shared:
        raise ConfigError(
            f"the folder {name} holds a tokenizer for each side, expected one for both",
            where="data.tokenizer_name",
            fix="set data.shared_vocabulary to false",
        )
    return pair if shared or not pair.shared else TokenizerPair(pair.src, Tokenizer(pair.tgt.definition, where=name))


def refuse_misspelt(name: str) -> None:
    """Raise where a name is close to one of TRAINERS, and can be no other tokenizer's: no folder, no ORG/NAME."""
    if name in TRAINERS or "/" in name or Path(name).is_dir():
        return
    word = name.lower()
    longer = (f", did you mean {known!r}?" for known in TRAINERS if word.startswith(known))
    if likely := nearest(word, TRAINERS) or next(longer, ""):
        fix = f"give one of {', '.join(TRAINERS)}, a folder, or the name of a tokenizer at the hub"
        raise ConfigError(f"unknown tokenizer {name!r}{likely}", where="data.tokenizer_name", fix=fix)


def _trained(
    streams: Sequence[PairStream], *, sides: tuple[int, ...], name: str, vocab_size: int, report: Report
) -> Tokenizer:
    units = (tuple((pair.src, pair.tgt)[side] for side in sides) for stream in streams for pair in stream)
    sample, total = evenly_sampled(units)
    if not sample:
        raise DataError(
            "no pairs to train a tokenizer on", where=", ".join(s.name for s in streams), fix="give text with pairs"
        )
    with _all_cores():
        backend = train(name, [text for unit in sample for text in unit], vocab_size=vocab_size)
    specials = dict(zip(ROLES, SPECIALS, strict=True))
    tokenizer = Tokenizer(Definition(backend.to_str(), specials), where=name)
    what = "both sides" if len(sides) == 2 else ("the source", "the target")[sides[0]]
    report(
        f"tokenizer: {name} for {what} with {tokenizer.vocab_size:,} tokens, from {len(sample):,} of {total:,} pairs, "
        "evenly spaced"
    )
    return tokenizer


def _backend(definition: str, where: str) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_str(definition)
        backend.encode_special_tokens = True  # special tokens in a text are text; the JSON does not keep this
        backend.no_padding()
        backend.no_truncation()
        return backend
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        raise _refusal(f"it is not a tokenizer definition ({error})", where) from error


def _growth(part: object) -> float:
    """How many times longer a text can become by the replacements in a part of a definition, done one after another."""
    if isinstance(part, list):
        return math.prod(map(_growth, part))
    if not isinstance(part, dict):
        return 1.0
    times = 1.0
    if part.get("type") == "Replace":
        pattern = part.get("pattern")
        replaced = pattern.get("String", "") if isinstance(pattern, dict) else ""  # a regular expression: anything
        times = max(1.0, len(part.get("content", "")) / max(1, len(replaced)))
    return times * math.prod(map(_growth, part.values()))


def _special_ids(specials: dict[str, str], vocabulary: dict[str, int], where: str) -> list[int]:
    highest = max(vocabulary.values(), default=-1)
    if highest >= 2 * len(vocabulary):
        raise _refusal(f"it has {len(vocabulary)} tokens, but ids up to {highest}", where)
    absent = [token for token in specials.values() if token not in vocabulary]
    if absent:
        raise _refusal(f"its vocabulary lacks the special tokens {absent}", where)
    ids = [vocabulary[specials[role]] for role in ROLES]
    if len(set(ids)) != len(ids):
        raise _refusal(f"pad, bos, eos and unk must have four different ids, got {ids}", where)
    return ids


def _refusal(what: str, where: str) -> CheckpointError:
    return CheckpointError(f"this tokenizer cannot be used: {what}", where=where, fix="choose or build another one")


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """Let `tokenizers` use all cores inside, unless the user has chosen.

    Its threads do not survive a fork: a child process is kept to one core, and never told so on stderr.
    """
    first_pid, chosen = _first_use()
    os.environ["TOKENIZERS_PARALLELISM"] = chosen or ("true" if os.getpid() == first_pid else "false")
    try:
        yield
    finally:
        os.environ["TOKENIZERS_PARALLELISM"] = chosen or "false"


@functools.cache
def _first_use() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("TOKENIZERS_PARALLELISM")
