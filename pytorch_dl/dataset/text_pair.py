"""One pair of texts, and the fault that a file can hold in its place; every reader of this folder yields these two."""

from typing import Literal, NamedTuple

from pytorch_dl.errors import DataError

FaultKind = Literal["file", "counts", "encoding", "nul", "columns", "json", "values"]


class TextPair(NamedTuple):
    """A source text and its target text; `line` is the line or record number in the file, from 1."""

    src: str
    tgt: str
    line: int


class Fault(DataError):
    """A defect of a file ("file", "counts": nothing after it can be read) or of one line (the other kinds)."""

    def __init__(self, kind: FaultKind, what: str, *, where: str, fix: str) -> None:
        super().__init__(what, where=where, fix=fix)
        self.kind: FaultKind = kind


Columns = tuple[str, str]
COLUMN_NAMES: tuple[Columns, ...] = (("src", "tgt"), ("source", "target"))
NAME_COLUMNS = "name the two columns: data.src_column and data.tgt_column"
