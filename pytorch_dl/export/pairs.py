"""The pairs by which an export is compared with its model: real ones where they are at hand, else random tokens."""

import itertools
from typing import NamedTuple

import numpy as np

from pytorch_dl.config import Config
from pytorch_dl.dataset.efficient_dataloader import texts_of
from pytorch_dl.dataset.text_files import TextPair
from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.errors import DataError, UserError

COUNT = 64
_LOOKED_AT = 1024
_LONGEST_RANDOM = 48


class Pairs(NamedTuple):
    """Token ids without begin and end marks, and where they are from."""

    src: list[list[int]]
    tgt: list[list[int]]
    origin: str

    def __len__(self) -> int:
        return len(self.src)


def pairs_of(config: Config, tokenizers: TokenizerPair, *, max_seq_len: int) -> Pairs:
    """Pairs of the validation text of a run; where it has none, or it is gone, random ones."""
    try:
        texts = _evenly_spaced(
            [pair for stream in texts_of(config.data, seed=config.system.seed).val for pair in stream]
        )
    except (UserError, OSError) as error:
        what = error.what if isinstance(error, UserError) else str(error.strerror)
        return random_pairs(tokenizers, max_seq_len=max_seq_len, why=f"the validation text cannot be read: {what}")
    try:
        return chosen(texts, tokenizers, max_seq_len=max_seq_len)
    except DataError as error:
        return random_pairs(tokenizers, max_seq_len=max_seq_len, why=error.what)


def chosen(texts: list[TextPair], tokenizers: TokenizerPair, *, max_seq_len: int) -> Pairs:
    """The pairs of a text with the longest source and target that the model reads, and others evenly spaced."""
    if not texts:
        raise DataError("the run has no validation text")
    sides = zip(
        tokenizers.src.encode_batch([pair.src for pair in texts]),
        tokenizers.tgt.encode_batch([pair.tgt for pair in texts]),
        strict=True,
    )
    fitting = [(src, tgt) for src, tgt in sides if src and max(len(src), len(tgt)) < max_seq_len]
    if not fitting:
        raise DataError(f"all pairs looked at are longer than the model reads, {max_seq_len} tokens")
    places = {max(range(len(fitting)), key=lambda place: len(fitting[place][side])) for side in (0, 1)}
    places |= {place * len(fitting) // COUNT for place in range(COUNT)}
    kept = [fitting[place] for place in sorted(places)]
    return Pairs([src for src, _ in kept], [tgt for _, tgt in kept], "pairs of the run's validation text")


def random_pairs(tokenizers: TokenizerPair, *, max_seq_len: int, why: str, seed: int = 1, count: int = COUNT) -> Pairs:
    """Random tokens of the vocabularies, in sequences of all lengths up to what the model reads, or 48."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, max(2, min(max_seq_len, _LONGEST_RANDOM + 1)), size=(2, count))
    src, tgt = (
        [rng.choice(_ordinary(tokenizer), size=length).tolist() for length in lengths[side]]
        for side, tokenizer in enumerate((tokenizers.src, tokenizers.tgt))
    )
    return Pairs(src, tgt, f"random tokens of the vocabulary ({why})")


def _ordinary(tokenizer: Tokenizer) -> list[int]:
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
    return [id for id in range(tokenizer.vocab_size) if id not in special]


def _evenly_spaced(texts: list[TextPair]) -> list[TextPair]:
    stride = -(-len(texts) // _LOOKED_AT) or 1
    return [*itertools.islice(texts, 0, None, stride)]
