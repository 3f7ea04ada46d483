"""Lines of text: split at \\n only, one trailing \\r and one leading byte order mark removed, strict UTF-8 without NUL.

Every other character that some programs take for a line end (U+2028, U+0085, vertical tab, lone CR) stays in its line.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

from pytorch_dl.dataset.compression import read_chunks
from pytorch_dl.dataset.text_pair import Fault

LINE_LIMIT = 1 << 26  # bytes; a longer line means that the lines end otherwise, and must not fill the memory
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, decompressed, as bytes without line end and byte order mark."""
    begun: list[bytes] = []  # the parts of a line that is not at its end; joined once, or long lines take long
    length = 0
    first = True
    for chunk in read_chunks(path):
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*begun, lines[0]])
            begun, length = [], 0
            if first:
                lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
                first = False
        for line in lines:
            yield line.removesuffix(b"\r")
        begun.append(rest)
        length += len(rest)
        if length > LINE_LIMIT:
            what = f"a line is longer than {LINE_LIMIT >> 20} MiB"
            raise Fault("file", what, where=str(path), fix="end each line with \\n (a lone \\r does not end a line)")
    if rest := b"".join(begun):
        yield (rest.removeprefix(codecs.BOM_UTF8) if first else rest).removesuffix(b"\r")
    elif first:
        raise Fault("file", "holds no text", where=str(path), fix="write the file again, or leave it out")


def starts_with_mark(path: Path) -> bool:
    """Whether the text of a file begins with the byte order mark of UTF-8, which reading removes."""
    head = b""
    for chunk in read_chunks(path):
        head += chunk
        if len(head) >= len(codecs.BOM_UTF8):
            break
    return head.startswith(codecs.BOM_UTF8)


def decode(raw: bytes, *, path: Path, line: int) -> str:
    """Decode one line; a Fault names line, column (in characters, from 1) and byte of what is not UTF-8, or NUL."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        column = len(raw[: error.start].decode()) + 1
        what = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        fix = _other_encoding(raw) if line == 1 else None
        fix = fix or "correct the line, or convert the file (iconv -f LATIN1 -t UTF-8, if it is Latin-1)"
        raise Fault("encoding", what, where=f"{path}:{line}:{column}", fix=fix) from error
    if "\0" in text:
        raise Fault(
            "nul",
            "a NUL character (byte 0x00) is no text",
            where=f"{path}:{line}:{text.index(chr(0)) + 1}",
            fix="remove it, or convert the file if it is UTF-16 (iconv -f UTF-16 -t UTF-8)",
        )
    return text


def one_line(text: str) -> str:
    """A text without line ends."""
    return text.replace("\n", " ").replace("\r", " ")


def _other_encoding(first_line: bytes) -> str | None:
    return "convert the file, it is UTF-16 (iconv -f UTF-16 -t UTF-8)" if first_line.startswith(_UTF16) else None
