"""Any bytes as text: the pairs are those of a split at line feeds, and what is no text is named with its place."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from odd_texts import PIECES, lines_of

from pytorch_dl.dataset import compression
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.dataset.text_pair import Fault, TextPair

NO_TEXT = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\0"]
pieces = st.sampled_from([piece.encode() for piece in [*PIECES, "\r\r\n", "\t", " ", "\U0001f600"]])
texts = st.lists(pieces, min_size=1, max_size=30).map(b"".join)
any_bytes = st.lists(pieces | st.sampled_from(NO_TEXT) | st.binary(max_size=3), min_size=1, max_size=30).map(b"".join)
chunks = st.sampled_from([1, 7, 1 << 18])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


def text_of(raw: bytes, path: Path, line: int) -> str:
    """The text of a line, or as an error where it is none."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise LookupError(f"{path}:{line}:{len(raw[: error.start].decode()) + 1}") from None
    if "\0" in text:
        raise LookupError(f"{path}:{line}:{text.index(chr(0)) + 1}")
    return text


def shown(item: TextPair | Fault) -> TextPair | str:
    return item if isinstance(item, TextPair) else str(item.where)


@given(any_bytes, any_bytes, chunks)
def test_two_files_are_split_at_line_feeds_and_nothing_else(folder: Path, src: bytes, tgt: bytes, chunk: int) -> None:
    src_path, tgt_path = folder / "text.src", folder / "text.tgt"
    src_path.write_bytes(src)
    tgt_path.write_bytes(tgt)
    src_lines, tgt_lines = lines_of(src), lines_of(tgt)
    assume(src_lines and tgt_lines and not any(map(compression.compression_of, (src[:10], tgt[:10]))))
    expected: list[TextPair | str] = []
    for line, (one, other) in enumerate(zip(src_lines, tgt_lines, strict=False), 1):
        try:
            expected.append(TextPair(text_of(one, src_path, line), text_of(other, tgt_path, line), line))
        except LookupError as error:
            expected.append(error.args[0])
    with mock.patch.object(compression, "_CHUNK", chunk):
        found = list(TextSource(str(src_path), str(tgt_path)).scan())
    if len(src_lines) != len(tgt_lines):
        counts = f"{src_path} has {len(src_lines)} lines, {tgt_path} {len(tgt_lines)}"
        last = found.pop()
        assert isinstance(last, Fault) and counts in str(last)
    assert [shown(item) for item in found] == expected


@given(any_bytes, chunks)
def test_a_line_of_tsv_has_one_tab(folder: Path, data: bytes, chunk: int) -> None:
    path = folder / "text.tsv"
    path.write_bytes(data)
    lines = lines_of(data)
    assume(lines and not compression.compression_of(data[:10]))
    expected: list[TextPair | str] = []
    for line, raw in enumerate(lines, 1):
        try:
            fields = text_of(raw, path, line).split("\t")
            blank, whole = not raw.strip(b" "), len(fields) == 2
            expected.append(TextPair(*(("", "") if blank else fields), line) if blank or whole else f"{path}:{line}")
        except LookupError as error:
            expected.append(error.args[0])
    with mock.patch.object(compression, "_CHUNK", chunk):
        assert [shown(item) for item in TextSource(str(path)).scan()] == expected


@given(texts, st.sampled_from([gzip.compress, bz2.compress, lzma.compress]), st.integers(1, 3), chunks)
def test_a_compressed_text_is_the_text(
    folder: Path, data: bytes, compress: Callable[[bytes], bytes], parts: int, chunk: int
) -> None:
    """In one part, or in several that were joined end to end."""
    plain, packed = folder / "plain.tsv", folder / "packed.tsv"
    plain.write_bytes(data)
    size = -(-len(data) // parts)
    packed.write_bytes(b"".join(compress(data[start : start + size]) for start in range(0, len(data), size)))
    with mock.patch.object(compression, "_CHUNK", chunk):
        expected, found = ([shown(item) for item in TextSource(str(path)).scan()] for path in (plain, packed))
    assert found == [item.replace(str(plain), str(packed)) if isinstance(item, str) else item for item in expected]
