"""Files as bytes, decompressed: gzip, bzip2, xz and zstd are told by their first bytes, never by the file's name.

Out go chunks of some MiB at the most, whatever a few bytes stand for, so that any file is read in little memory.
"""

import bz2
import contextlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import zstandard

from pytorch_dl.dataset.text_pair import Fault
from pytorch_dl.files import sha256

ENDINGS = (".gz", ".bz2", ".xz", ".zst")
_CHUNK = 1 << 18
_COMPRESSED_CHUNK = 1 << 14
_ZSTD_CHUNK = 1 << 8  # it has no limit of output, but 4 bytes of input stand for at most 128 KiB


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Zstd:
    """Takes a limit as the others do, which _ZSTD_CHUNK keeps."""

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, _max_length: int, /) -> bytes:
        return bytes(self._inner.decompress(data))


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "zstd": _Zstd,
}


def compression_of(head: bytes) -> str | None:
    """Name the compression that a file's first 10 bytes tell, or None."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):  # a block, or the end of no blocks
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    skippable = head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50  # a frame of other data goes first
    return "zstd" if skippable or head.startswith(b"\x28\xb5\x2f\xfd") else None


def without_ending(path: Path) -> Path:
    """`path` without its compression ending."""
    return path.with_suffix("") if path.suffix.lower() in ENDINGS else path


def check_file(path: Path) -> None:
    """Raise a Fault when `path` is no file that can be read, or is empty."""
    with read_errors(path):
        _check(path)


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, decompressed; a Fault when it is missing, empty, unreadable or cut off."""
    with read_errors(path):
        _check(path)
        with open(path, "rb") as file:
            kind = compression_of(file.read(10))
            file.seek(0)
            if kind:
                size = _ZSTD_CHUNK if kind == "zstd" else _COMPRESSED_CHUNK
                compressed = iter(lambda: file.read(size), b"")
                yield from _decompressed(compressed, kind=kind, path=path)
            else:
                yield from iter(lambda: file.read(_CHUNK), b"")


def hash_file(path: Path) -> str:
    """Hex SHA-256 of the bytes on disk; a Fault as in `read_chunks`."""
    with read_errors(path):
        _check(path)
        return sha256(path)


def _check(path: Path) -> None:
    where = str(path)
    if not path.exists():
        raise Fault("file", "no such file", where=where, fix="correct the path")
    if path.is_dir():
        raise Fault("file", "is a folder, not a file", where=where, fix="name a file in it")
    if not path.is_file():
        raise Fault(
            "file", "is not a regular file", where=where, fix="write the text to a file: it is read several times"
        )
    if path.stat().st_size == 0:
        raise Fault("file", "is empty (0 bytes)", where=where, fix="write the file again, or leave it out")


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to read `path` into a Fault."""
    try:
        yield
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise Fault("file", what, where=str(path), fix="check the path and its permissions") from error


def _decompressed(chunks: Iterator[bytes], *, kind: str, path: Path) -> Iterator[bytes]:
    damaged = "compress it again from the original, or copy it again"
    decompressor = _DECOMPRESSORS[kind]()
    for chunk in chunks:
        while chunk:
            if decompressor.eof:  # files joined end to end are one text; zeros after the end are padding
                if not chunk.strip(b"\0"):
                    break
                decompressor = _DECOMPRESSORS[kind]()
            try:
                yield from _content(decompressor, chunk)
            except (OSError, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
                raise Fault("file", f"the {kind} data are damaged ({error})", where=str(path), fix=damaged) from error
            chunk = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise Fault("file", f"the {kind} data are cut off before their end", where=str(path), fix=damaged)


def _content(decompressor: _Decompressor, data: bytes) -> Iterator[bytes]:
    """What `data` stand for, in pieces: a full one means that there may be more."""
    piece = decompressor.decompress(data, _CHUNK)
    while len(piece) >= _CHUNK and not decompressor.eof:
        yield piece
        piece = decompressor.decompress(getattr(decompressor, "unconsumed_tail", b""), _CHUNK)
    if piece:
        yield piece
