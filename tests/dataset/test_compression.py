import bz2
import gzip
import lzma
import random
import tracemalloc

import pytest
import zstandard

from pytorch_dl.dataset.compression import _CHUNK, compression_of, hash_file, read_chunks, without_ending
from pytorch_dl.dataset.text_pair import Fault

COMPRESS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
TEXT = bytes(random.Random(0).choices(b"abcdefgh \n", k=700_000))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "text.gz"  # whatever it holds: the name must not matter


def content(path):
    return b"".join(read_chunks(path))


@pytest.mark.parametrize("kind", COMPRESS)
def test_content_is_told_by_the_first_bytes(file, kind):
    data = COMPRESS[kind](TEXT)
    assert compression_of(data[:10]) == kind
    file.write_bytes(data)
    assert content(file) == TEXT


@pytest.mark.parametrize("kind", COMPRESS)
def test_files_joined_end_to_end_and_zero_padding_are_read(file, kind):
    file.write_bytes(COMPRESS[kind](b"one\n") + COMPRESS[kind](TEXT) + bytes(512))
    assert content(file) == b"one\n" + TEXT


@pytest.mark.parametrize("number", [0x50, 0x5F])
def test_zstd_may_begin_with_a_skippable_frame(file, number):
    skippable = bytes([number]) + b"\x2a\x4d\x18" + (700).to_bytes(4, "little") + bytes(700)
    file.write_bytes(skippable + COMPRESS["zstd"](TEXT) + skippable)
    assert compression_of(file.read_bytes()[:10]) == "zstd"
    assert content(file) == TEXT


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("part", [0.1, 0.9, 0.99999])
def test_cut_off_data_are_a_fault(file, kind, part):
    data = COMPRESS[kind](TEXT)
    file.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(Fault, match=rf"text\.gz: the {kind} data are cut off before their end\. Fix: "):
        content(file)


@pytest.mark.parametrize("kind", COMPRESS)
def test_damaged_data_are_a_fault(file, kind):
    data = bytearray(COMPRESS[kind](TEXT))
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    file.write_bytes(data)
    with pytest.raises(Fault, match=rf"the {kind} data are (damaged|cut off)"):
        content(file)


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_few_bytes_that_stand_for_megabytes_are_read_in_small_chunks(file, kind):
    size = 20 << 20
    data = COMPRESS[kind](b"a\tA\n" * (size // 4))
    assert len(data) < size / 500
    file.write_bytes(data)
    tracemalloc.start()
    try:
        lengths = [len(chunk) for chunk in read_chunks(file)]
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
    assert sum(lengths) == size and max(lengths) <= 8 << 20


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("size", [_CHUNK - 1, _CHUNK, _CHUNK + 1, 3 * _CHUNK])
def test_content_that_fills_whole_chunks_is_read_to_its_end(file, kind, size):
    text = (b"a\n" * _CHUNK)[:size] if size < 2 * _CHUNK else b"abc" * _CHUNK
    file.write_bytes(COMPRESS[kind](text) * 2)
    assert content(file) == text * 2


def test_a_plain_file_is_plain_whatever_its_name(file):
    for data in (b"BZh is how bzip2 begins\n", b"x", b"PAR1\n"):
        file.write_bytes(data)
        assert content(file) == data


def test_what_is_no_readable_file_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("a\n")
    import os

    os.mkfifo(tmp_path / "pipe")
    for path, what in [
        (tmp_path / "none", "none: no such file"),
        (tmp_path, "is a folder, not a file"),
        (tmp_path / "empty", r"empty: is empty \(0 bytes\)"),
        (tmp_path / "pipe", "pipe: is not a regular file"),
        (tmp_path / ("long" * 100), "cannot be read: File name too long"),
    ]:
        for read in (content, hash_file):
            with pytest.raises(Fault, match=what) as caught:
                read(path)
            assert caught.value.kind == "file" and caught.value.exit_code == 3

    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(Fault, match="text: cannot be read: Permission denied"):
        content(tmp_path / "text")


def test_without_ending(tmp_path):
    names = ["a.tsv.gz", "a.tsv.ZST", "a.tsv", "a.xz", "a"]
    assert [without_ending(tmp_path / name).name for name in names] == ["a.tsv", "a.tsv", "a.tsv", "a", "a"]
