import random
import time

import pytest
from odd_texts import PIECES, lines_of

from pytorch_dl.dataset import text_lines
from pytorch_dl.dataset.text_lines import decode, one_line, read_lines, starts_with_mark
from pytorch_dl.dataset.text_pair import Fault


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
def test_500_files_of_mixed_line_ends_match_split(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("pytorch_dl.dataset.compression._CHUNK", chunk)
    rng = random.Random(chunk)
    path = tmp_path / "text"
    marks = 0
    for _ in range(500):
        text = rng.choice(["", "\ufeff"]) + "".join(rng.choices(PIECES, k=rng.randrange(1, 30))) + rng.choice("x\n")
        data = text.encode()
        path.write_bytes(data)
        assert list(read_lines(path)) == lines_of(data)
        assert len(lines_of(data)) == data.count(b"\n") + (not data.endswith(b"\n"))  # as wc -l, and an open last line
        assert starts_with_mark(path) == data.startswith(b"\xef\xbb\xbf")
        marks += starts_with_mark(path)
    assert 100 < marks < 400


def test_decode_names_line_column_and_byte_of_200_bad_bytes(tmp_path):
    rng = random.Random(0)
    for _ in range(200):
        text = "".join(rng.choices("ab é字\U0001f600", k=rng.randrange(40)))
        column = rng.randrange(len(text) + 1)
        bad = rng.choice([0xFF, 0xC0, 0xF8, 0x80])
        raw = text[:column].encode() + bytes([bad]) + text[column:].encode()
        line = rng.randrange(2, 10**6)
        with pytest.raises(Fault, match="is not UTF-8") as caught:
            decode(raw, path=tmp_path / "f.txt", line=line)
        assert caught.value.where == f"{tmp_path}/f.txt:{line}:{column + 1}"
        assert f"byte 0x{bad:02x} " in str(caught.value) and caught.value.kind == "encoding"


def test_decode_refuses_what_python_would_not_encode_and_nul(tmp_path):
    for raw in (
        b"ab\xed\xa0\x80",
        b"ab\xc0\x80",
        b"ab\xf4\x90\x80\x80",
        b"ab\xe5\xad",
    ):  # surrogate, overlong, too high, cut
        with pytest.raises(Fault, match=r"f:3:3: byte 0x.. is not UTF-8\. Fix: .*iconv"):
            decode(raw, path=tmp_path / "f", line=3)
    with pytest.raises(Fault, match=r"f:3:2: a NUL character \(byte 0x00\) is no text") as caught:
        decode("é\0".encode(), path=tmp_path / "f", line=3)
    assert caught.value.kind == "nul"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_recognised(tmp_path, encoding):
    with pytest.raises(Fault, match="it is UTF-16"):
        decode("\ufeffhello".encode(encoding), path=tmp_path / "f", line=1)


def test_a_long_line_takes_time_in_proportion(tmp_path, monkeypatch):
    chunks = [b"x" * 1000] * 40_000 + [b"\ny"]  # joined anew at each chunk, these are 800 GB
    monkeypatch.setattr(text_lines, "read_chunks", lambda path: iter(chunks))
    start = time.perf_counter()
    assert [len(line) for line in read_lines(tmp_path)] == [40_000_000, 1]
    assert time.perf_counter() - start < 10


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "LINE_LIMIT", 1 << 20)
    path = tmp_path / "mac"
    path.write_bytes(b"line\r" * 600_000)
    with pytest.raises(Fault, match=r"mac: a line is longer than 1 MiB.*lone \\r"):
        list(read_lines(path))


def test_a_compressed_file_of_nothing_holds_no_text(tmp_path):
    import gzip

    path = tmp_path / "f.gz"
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(Fault, match=r"f\.gz: holds no text"):
        list(read_lines(path))


def test_one_line_has_no_line_ends():
    assert one_line("a\nb\r\nc\u2028d ") == "a b  c\u2028d "
