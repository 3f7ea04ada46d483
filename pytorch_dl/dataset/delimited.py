"""Pairs from files with one record of columns a line: TSV (no quoting at all) and CSV (RFC 4180, header or none)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pytorch_dl.dataset.text_lines import decode, read_lines
from pytorch_dl.dataset.text_pair import COLUMN_NAMES, NAME_COLUMNS, Columns, Fault, TextPair

RECORD_LINES = 1000  # a quoted CSV field of more lines than this is a stray quote
_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",]*))(,|\Z)')
_QUOTES = 'put a field with " or a line break in quotes and write "" for each " in it'


class CsvLayout(NamedTuple):
    """Where the two texts of a CSV record are: indices from 0, the number of fields, whether the first is a header."""

    src: int
    tgt: int
    width: int
    has_header: bool


def read_tsv(path: Path, *, columns: Columns | None) -> Iterator[TextPair | Fault]:
    """Yield the pairs of a TSV file: of exactly two columns, or of the columns with the given numbers (from 1)."""
    for line, raw in enumerate(read_lines(path), 1):
        if not raw.strip(b" "):
            yield TextPair("", "", line)
            continue
        try:
            pair = _tsv_pair(decode(raw, path=path, line=line), columns=columns, where=f"{path}:{line}", line=line)
        except Fault as fault:
            yield fault
        else:
            yield pair


def _tsv_pair(text: str, *, columns: Columns | None, where: str, line: int) -> TextPair:
    fields = text.split("\t")
    if columns is None:
        if len(fields) == 2:
            return TextPair(fields[0], fields[1], line)
        fix = "put one tab between source and target, or give the target file as well"
        if len(fields) > 2:
            fix = "mend the line; or, where all are so, choose: data.src_column=1 data.tgt_column=2"
        raise Fault("columns", f"expected 2 columns with a tab between them, got {len(fields)}", where=where, fix=fix)
    src, tgt = (int(column) for column in columns)
    if len(fields) < max(src, tgt):
        what = f"expected at least {max(src, tgt)} columns, got {len(fields)}"
        raise Fault("columns", what, where=where, fix="complete the line, or correct src_column and tgt_column")
    return TextPair(fields[src - 1], fields[tgt - 1], line)


def read_csv(path: Path, *, columns: Columns | None) -> Iterator[TextPair | Fault]:
    """Yield the pairs of a CSV file; its first record tells the layout (see `csv_layout`)."""
    layout: CsvLayout | None = None
    for line, fields in _csv_records(path):
        if isinstance(fields, Fault):
            yield fields
            continue
        if fields == [""]:
            yield TextPair("", "", line)
            continue
        if layout is None:
            layout = csv_layout(fields, columns=columns, where=f"{path}:{line}")
            if layout.has_header:
                continue
        if len(fields) == layout.width:
            yield TextPair(fields[layout.src], fields[layout.tgt], line)
        else:
            what = f"expected {layout.width} columns as in the first record, got {len(fields)}"
            yield Fault("columns", what, where=f"{path}:{line}", fix="quote a field that has a comma in it")


def csv_layout(fields: list[str], *, columns: Columns | None, where: str) -> CsvLayout:
    """Tell from the first record where the texts are: named columns, src/tgt, source/target, or just two columns."""
    names = fields if columns else [field.strip().lower() for field in fields]
    for src, tgt in [columns] if columns else COLUMN_NAMES:
        if src in names and tgt in names:
            return CsvLayout(names.index(src), names.index(tgt), len(fields), has_header=True)
    if columns is None and len(fields) == 2:
        return CsvLayout(0, 1, 2, has_header=False)
    wanted = " and ".join(columns or COLUMN_NAMES[0])
    what = f"expected columns {wanted} in the header, got {', '.join(fields)}"
    raise Fault("columns", what, where=where, fix=NAME_COLUMNS)


def first_csv_record(path: Path) -> tuple[int, list[str]]:
    """Line number and fields of the first record that is not blank; a Fault when it cannot be read."""
    for line, fields in _csv_records(path):
        if isinstance(fields, Fault):
            raise fields
        if fields != [""]:
            return line, fields
    raise Fault("file", "holds no record", where=str(path), fix="write the file again, or leave it out")


def _csv_records(path: Path) -> Iterator[tuple[int, list[str] | Fault]]:
    """Yield each record with the number of its first line; a record ends at a line end outside quotes."""
    held: list[bytes] = []
    quoted = False
    line = 0
    for line, raw in enumerate(read_lines(path), 1):
        held.append(raw)
        quoted ^= raw.count(b'"') % 2 == 1
        if not quoted or len(held) == RECORD_LINES:
            first = line - len(held) + 1
            yield first, _csv_fields(held, path=path, line=first, closed=not quoted)
            held, quoted = [], False
    if held:
        first = line - len(held) + 1
        yield first, _csv_fields(held, path=path, line=first, closed=False)


def _csv_fields(lines: list[bytes], *, path: Path, line: int, closed: bool) -> list[str] | Fault:
    if not closed:
        return Fault("columns", 'a quote " is never closed', where=f"{path}:{line}", fix=_QUOTES)
    try:
        record = "\n".join(decode(raw, path=path, line=line + i) for i, raw in enumerate(lines))
    except Fault as fault:
        return fault
    if '"' not in record:
        return record.split(",")
    fields: list[str] = []
    at, end = 0, ","
    while end:
        match = _FIELD.match(record, at)
        if match is None:
            return Fault("columns", 'a quote " stands inside a field', where=f"{path}:{line}", fix=_QUOTES)
        text, plain, end = match.groups()
        fields.append(plain if text is None else text.replace('""', '"'))
        at = match.end()
    return fields
