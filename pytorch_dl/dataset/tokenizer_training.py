"""Train a tokenizer on sentences: BPE, unigram pieces, characters, or plain bytes.

All four work on the bytes of UTF-8 (written as the printable characters of GPT-2's byte alphabet), so that no text is
unknown, nothing is normalised and decoding gives back exactly the text. Sentences in, a `tokenizers.Tokenizer` out.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from pytorch_dl.errors import ConfigError

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
SPECIALS = (PAD, BOS, EOS, UNK)  # their ids are 0, 1, 2, 3
SMALLEST_VOCABULARY = len(SPECIALS) + 256

# What bounds the memory of training: about 125 (BPE) to 170 (unigram) bytes per byte of distinct words.
MAX_SENTENCES = 400_000
MAX_DISTINCT_BYTES = 6_000_000

# A word takes its space with it and keeps its combining marks; digits stand alone, so that any number can be copied.
# Punctuation never shares a piece with letters: no piece can spell a special token.
_WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
_LONGEST_PIECE = 32  # bytes


def train(kind: str, sentences: Sequence[str], *, vocab_size: int) -> tokenizers.Tokenizer:
    """Train the tokenizer `kind` of TRAINERS: at most `vocab_size` tokens, fewer where the text gives no more."""
    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"got {vocab_size}, but a {kind} tokenizer needs at least {SMALLEST_VOCABULARY}: "
            f"256 bytes and {len(SPECIALS)} special tokens",
            where="data.vocab_size",
            fix=f"set it to {SMALLEST_VOCABULARY} or more",
        )
    return TRAINERS[kind](sentences, vocab_size)


def evenly_sampled(units: Iterable[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], int]:
    """Keep every 2^k-th unit, with the least k that holds the limits above; also say how many units there were."""
    kept: list[tuple[str, ...]] = []
    stride, total, distinct = 1, 0, _DistinctWords()
    for number, unit in enumerate(units):
        total = number + 1
        if number % stride:
            continue
        kept.append(unit)
        distinct.add(unit)
        while len(kept) > 1 and (len(kept) * len(unit) > MAX_SENTENCES or distinct.num_bytes > MAX_DISTINCT_BYTES):
            kept, stride, distinct = kept[::2], stride * 2, _DistinctWords()
            for survivor in kept:
                distinct.add(survivor)
    return kept, total


class _DistinctWords:
    """The distinct words seen so far, for their size in bytes."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._words: set[str] = set()

    def add(self, unit: tuple[str, ...]) -> None:
        new = {word for text in unit for word in text.split()} - self._words
        self.num_bytes += len("".join(new).encode())
        self._words |= new


def _train_bpe(sentences: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    backend = _over_words(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    return backend


def _train_unigram(sentences: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    backend = _over_words(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        unk_token=UNK,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_piece_length=_LONGEST_PIECE,
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    scores = dict(json.loads(backend.to_str())["model"]["vocab"])
    pieces = _reproducible({piece: score for piece, score in scores.items() if piece not in SPECIALS})
    longer = [piece for piece, _ in pieces if len(piece) > 1][
        : vocab_size - SMALLEST_VOCABULARY
    ]  # it may give one more
    kept = {*longer, *pre_tokenizers.ByteLevel.alphabet()}
    vocabulary = [(special, 0.0) for special in SPECIALS] + [item for item in pieces if item[0] in kept]
    return _with_specials(_over_words(models.Unigram(vocabulary, SPECIALS.index(UNK), False)))


def _reproducible(scores: dict[str, float]) -> list[tuple[str, float]]:
    """Give the pieces the same scores and order in each training.

    The trainer adds floats in random order (differences up to 4e-11) and hands the bytes that it saw too rarely the
    lowest score plus 0.0001, 0.0002, ... in random order.
    """
    lowest = min(scores.values())
    rare = lowest + 256 * 0.0001 + 1e-6
    rounded = {
        piece: round(lowest if len(piece) == 1 and score < rare else score, 2) for piece, score in scores.items()
    }
    return sorted(rounded.items(), key=lambda item: (-item[1], item[0]))


def _train_char(sentences: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence)
    seen = sorted((char for char in counts if not char.isascii()), key=lambda char: (-counts[char], char))
    return _of_pieces([_byte_alphabet(char) for char in seen[: vocab_size - SMALLEST_VOCABULARY]])


def _train_byte(sentences: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    del sentences, vocab_size  # there is nothing to learn
    return _of_pieces([])


TRAINERS: dict[str, Callable[[Sequence[str], int], tokenizers.Tokenizer]] = {
    "bpe": _train_bpe,
    "unigram": _train_unigram,
    "char": _train_char,
    "byte": _train_byte,
}


def _over_words(model: models.Model) -> tokenizers.Tokenizer:
    """A tokenizer that splits into words first; one space is put before the text, so that its first word is like any
    other, and taken off again when decoding."""
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Prepend(" ")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated"), _to_bytes()]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return backend


def _of_pieces(pieces: list[str]) -> tokenizers.Tokenizer:
    """A tokenizer that takes a character whole where it is a piece, else byte by byte."""
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *pieces]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    # Runs of ASCII need no split to come out byte by byte, but for "<", without which they cannot be a special token.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(r"[^\x00-\x7F]|<"), "isolated"), _to_bytes()]
    )
    backend.decoder = decoders.ByteLevel()
    return _with_specials(backend)


def _with_specials(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return backend


def _to_bytes() -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _byte_alphabet(text: str) -> str:
    return "".join(piece for piece, _ in _to_bytes().pre_tokenize_str(text))
