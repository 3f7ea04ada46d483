"""Pairs of texts from files: two files, a prefix with two suffixes, TSV, CSV, JSON lines, Parquet, Hugging Face.

Every reader streams in bounded memory and never shifts one side against the other. Reading stops at the first fault
with one line that names it; `scan` goes on after it, for the data check.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pytorch_dl.dataset.compression import ENDINGS, hash_file, read_errors, without_ending
from pytorch_dl.dataset.delimited import csv_layout, first_csv_record, read_csv, read_tsv
from pytorch_dl.dataset.records import read_hf, read_jsonl, read_parquet
from pytorch_dl.dataset.text_lines import starts_with_mark
from pytorch_dl.dataset.text_pair import Columns, Fault, TextPair
from pytorch_dl.dataset.two_files import read_two_files
from pytorch_dl.errors import ConfigError, DataError

__all__ = ["PairStream", "TextPair", "TextSource", "blank_side", "is_number", "report_dropped"]

Form = Literal["two files", "TSV", "CSV", "JSONL", "Parquet", "Hugging Face"]
_FORMS: dict[str, Form] = {
    ".csv": "CSV",
    ".jsonl": "JSONL",
    ".ndjson": "JSONL",
    ".json": "JSONL",
    ".parquet": "Parquet",
}
_READERS = {"TSV": read_tsv, "CSV": read_csv, "JSONL": read_jsonl, "Parquet": read_parquet}


class PairStream(Protocol):
    """Anything that yields the same pairs each time it is iterated."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def weight(self) -> float:
        """How often each pair appears in an epoch."""

    @property
    def dropped(self) -> int:
        """How many pairs the last whole pass left out for a blank side."""

    def __iter__(self) -> Iterator[TextPair]: ...

    def fingerprint(self) -> str:
        """Hex SHA-256 over the bytes that the pairs are read from and the options that change the pairs."""


def report_dropped(stream: PairStream, report: Callable[[str], None]) -> None:
    """Tell how many pairs the last whole pass over a stream left out."""
    if stream.dropped:
        report(f"{stream.name}: {stream.dropped:,} pairs with a blank side are left out")


def blank_side(pair: TextPair) -> Literal["source", "target", "both"] | None:
    """Which side of a pair is empty or only white space."""
    src, tgt = not pair.src.strip(), not pair.tgt.strip()
    if src and tgt:
        return "both"
    return "source" if src else "target" if tgt else None


@dataclass(frozen=True)
class TextSource:
    """The pairs of two files, or of one source that holds both sides; wrong options are a ConfigError."""

    src: str
    """A file; with suffixes the prefix of two files; or hf://ORG/NAME[/CONFIG][#SPLIT], or hf://FOLDER."""
    tgt: str | None = None
    """The file of the other side; without it (and without suffixes) `src` holds both."""
    src_suffix: str | None = None
    """The source file is SRC.SRC_SUFFIX, or that with .gz, .bz2, .xz or .zst."""
    tgt_suffix: str | None = None
    """Likewise for the target file."""
    src_column: str | None = None
    """Where the source is in a file that holds both sides: the name of a column or field; in TSV its number from 1."""
    tgt_column: str | None = None
    """Likewise for the target."""
    weight: float = 1.0
    """How often each pair appears in an epoch."""
    on_blank: Literal["error", "drop"] = "error"
    """What to do with a pair that has a blank side."""
    dropped: int = field(default=0, init=False, compare=False)
    """How many pairs the last whole pass left out for a blank side."""

    def __post_init__(self) -> None:
        for contradiction in self._contradictions():
            raise ConfigError(contradiction[0], where=self.name, fix=contradiction[1])

    @property
    def form(self) -> Form:
        """The form of the source, told from the options and the ending of the name without that of a compression."""
        if self.src.startswith("hf://"):
            return "Hugging Face"
        if self.tgt is not None or self.src_suffix is not None:
            return "two files"
        return _FORMS.get(without_ending(Path(self.src)).suffix.lower(), "TSV")

    @property
    def name(self) -> str:
        """The file or files."""
        if self.src_suffix is not None:
            return f"{self.src}.{self.src_suffix} + {self.src}.{self.tgt_suffix}"
        return self.src if self.tgt is None else f"{self.src} + {self.tgt}"

    @property
    def paths(self) -> list[Path]:
        """The files that are read; a Fault when a prefix and suffix lead to none or to several."""
        if self.form == "Hugging Face":
            return []
        if self.src_suffix is not None and self.tgt_suffix is not None:
            return [_suffixed(self.src, self.src_suffix), _suffixed(self.src, self.tgt_suffix)]
        return [Path(self.src)] if self.tgt is None else [Path(self.src), Path(self.tgt)]

    def __iter__(self) -> Iterator[TextPair]:
        """Yield the pairs; the first fault is a DataError, and so is a source that is left without pairs."""
        kept = dropped = 0
        for item in self.scan():
            if isinstance(item, Fault):
                raise item
            side = blank_side(item)
            if side is None:
                kept += 1
                yield item
            elif self.on_blank == "drop":
                dropped += 1
            else:
                raise self._blank_error(item, side=side)
        object.__setattr__(self, "dropped", dropped)  # what a pass tells beside its pairs; all else stays frozen
        if not kept:
            what = f"no pair is left: {dropped} of {dropped} have a blank side"
            raise DataError(what, where=self.name, fix="complete the text")

    def scan(self) -> Iterator[TextPair | Fault]:
        """Yield every pair, blank ones too, and a Fault in the place of each that cannot be read; never raises one."""
        try:
            yield from self._items()
        except Fault as fault:
            yield fault

    def remarks(self) -> list[str]:
        """What reading does by itself with these files: marks that it removes, columns that it chooses."""
        marks = [f"{path}: the byte order mark at its start is not read" for path in self._marked()]
        if self.form != "CSV":
            return marks
        line, fields = first_csv_record(Path(self.src))
        layout = csv_layout(fields, columns=self._columns, where=f"{self.src}:{line}")
        if layout.has_header:
            text = f"has a header; source is column {fields[layout.src]!r}, target is column {fields[layout.tgt]!r}"
        else:
            text = f"has no header with known names; its first record is a pair: {fields[0]!r}, {fields[1]!r}"
        return [*marks, f"{self.src}: {text}"]

    def fingerprint(self) -> str:
        """Hex SHA-256 over the raw bytes of the files and the options that change the pairs, not over the names.

        For Hugging Face it is taken over the pairs, which are read once for it.
        """
        options = [self.form, self.src_column, self.tgt_column, self.on_blank]
        sums = [self._pairs_hash()] if self.form == "Hugging Face" else [hash_file(path) for path in self.paths]
        return hashlib.sha256(json.dumps([options, sums]).encode()).hexdigest()

    @property
    def _columns(self) -> Columns | None:
        return (self.src_column, self.tgt_column) if self.src_column and self.tgt_column else None

    def _items(self) -> Iterator[TextPair | Fault]:
        if self.form == "two files":
            return read_two_files(*self.paths)
        if self.form == "Hugging Face":
            return read_hf(self.src, columns=self._columns)
        return _READERS[self.form](Path(self.src), columns=self._columns)

    def _marked(self) -> list[Path]:
        return [path for path in self.paths if self.form != "Parquet" and starts_with_mark(path)]

    def _pairs_hash(self) -> str:
        total = hashlib.sha256()
        for item in self.scan():
            if isinstance(item, Fault):  # a text that cannot be read has no fingerprint, as a file that is gone
                raise item
            total.update(json.dumps([item.src, item.tgt]).encode())
        return total.hexdigest()

    def _blank_error(self, pair: TextPair, *, side: str) -> DataError:
        file = str(self.paths[1 if side == "target" else 0]) if self.form == "two files" else self.src
        what = "both sides of the pair are blank" if side == "both" else f"the {side} is blank"
        fix = "write the missing text, or leave such pairs out on both sides with data.on_blank=drop"
        return DataError(what, where=f"{file}:{pair.line}", fix=fix)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        if not self.src:
            yield "no file is named", "name the training text"
        if not (math.isfinite(self.weight) and self.weight > 0):
            yield f"expected a weight over 0, got {self.weight}", "leave the source out instead"
        if self.on_blank not in ("error", "drop"):
            yield f"expected on_blank error or drop, got {self.on_blank}", "correct it"
        if (self.src_suffix is None) != (self.tgt_suffix is None):
            yield f"src_suffix ({self.src_suffix}) and tgt_suffix ({self.tgt_suffix}) go together", "give both or none"
        if (self.src_column is None) != (self.tgt_column is None):
            yield f"src_column ({self.src_column}) and tgt_column ({self.tgt_column}) go together", "give both or none"
        if self.tgt is not None and (self.src_suffix is not None or self.form == "Hugging Face"):
            yield f"the target file {self.tgt} is one side too many", "leave it out"
        if self.src_column is not None and self.form == "two files":
            yield f"two files have no column {self.src_column}", "leave src_column and tgt_column out"
        if self.form == "TSV" and not all(is_number(column) for column in self._columns or ()):
            yield f"expected numbers of columns, got {self.src_column} and {self.tgt_column}", 'count from "1"'


def is_number(column: str) -> bool:
    """Whether a column is told by its place, from 1, rather than by its name."""
    return column.isascii() and column.isdigit() and int(column) > 0


def _suffixed(prefix: str, suffix: str) -> Path:
    plain = f"{prefix}.{suffix}"
    with read_errors(Path(plain)):
        found = [path for path in (Path(plain + ending) for ending in ("", *ENDINGS)) if path.exists()]
    if not found:
        what = f"no such file, nor with {', '.join(ENDINGS)}"
        raise Fault("file", what, where=plain, fix="correct the prefix and the suffixes")
    if len(found) > 1:
        what = f"there are several: {', '.join(map(str, found))}"
        raise Fault("file", what, where=plain, fix="name the two files instead of prefix and suffixes")
    return found[0]
