"""Write the token files of a store: pairs in, in chunks of bounded size; flat arrays appended to files.

Each side has ids (no begin or end ids) and offsets (int64): pair i has ids[offsets[i]:offsets[i + 1]].
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pytorch_dl.dataset.text_files import PairStream, TextPair, report_dropped
from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.errors import DataError

OFFSETS = "<i8"
ID_DTYPES = ("<u2", "<u4")  # the narrow one where every id of both sides fits
TOKEN_FILES = ("src_ids", "src_offsets", "tgt_ids", "tgt_offsets")
_CHUNK_PAIRS = 2_000  # tokenized at once: more are slower
_CHUNK_CHARACTERS = 4_000_000
_REPORT_EVERY = 100_000


def write_token_files(
    folder: Path, streams: Sequence[PairStream], tokenizers: TokenizerPair, *, report: Callable[[str], None]
) -> dict[str, Any]:
    """Tokenise all pairs into `folder`; return dtype, number of pairs and tokens, and where each stream's pairs lie."""
    dtype = ID_DTYPES[max(tokenizers.src.vocab_size, tokenizers.tgt.vocab_size) > 2**16]
    spans, pairs = [], 0
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open(folder / name, "wb")) for name in TOKEN_FILES]
        src = _Side(tokenizers.src, ids=opened[0], offsets=opened[1], dtype=dtype)
        tgt = _Side(tokenizers.tgt, ids=opened[2], offsets=opened[3], dtype=dtype)
        for stream in streams:
            start = pairs
            for chunk in _chunks(stream):
                src.append([pair.src for pair in chunk])
                tgt.append([pair.tgt for pair in chunk])
                pairs, before = pairs + len(chunk), pairs
                if pairs // _REPORT_EVERY > before // _REPORT_EVERY:
                    report(f"token store: {pairs:,} pairs tokenised")
            spans.append([start, pairs])
            report_dropped(stream, report)
    if pairs == 0:
        raise DataError("there are no pairs", where=_names(streams), fix="give text with at least one pair")
    return {"dtype": dtype, "pairs": pairs, "src_tokens": src.total, "tgt_tokens": tgt.total, "spans": spans}


class _Side:
    """The two files of one side; `total` tokens are written so far."""

    def __init__(self, tokenizer: Tokenizer, *, ids: BinaryIO, offsets: BinaryIO, dtype: str) -> None:
        self._tokenizer, self._ids, self._offsets, self._dtype = tokenizer, ids, offsets, dtype
        self.total = 0
        self._offsets.write(np.zeros(1, OFFSETS).tobytes())

    def append(self, texts: list[str]) -> None:
        encoded = self._tokenizer.encode_batch(texts)
        ends = self.total + np.cumsum(np.fromiter(map(len, encoded), OFFSETS, count=len(encoded)), dtype=OFFSETS)
        flat = np.fromiter(itertools.chain.from_iterable(encoded), self._dtype, count=int(ends[-1]) - self.total)
        self._ids.write(flat.tobytes())
        self._offsets.write(ends.tobytes())
        self.total = int(ends[-1])


def _chunks(pairs: Iterable[TextPair]) -> Iterator[list[TextPair]]:
    chunk: list[TextPair] = []
    characters = 0
    for pair in pairs:
        chunk.append(pair)
        characters += len(pair.src) + len(pair.tgt)
        if len(chunk) >= _CHUNK_PAIRS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _names(streams: Sequence[PairStream]) -> str | None:
    return ", ".join(stream.name for stream in streams) or None
