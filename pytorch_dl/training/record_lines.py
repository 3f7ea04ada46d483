"""JSON lines of a run that may be going on, or was killed while it wrote one."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pytorch_dl.plain_files import strangeness

Row = dict[str, Any]


@dataclass(frozen=True)
class RecordLines:
    """The rows that can be read, in order of their steps, and what is to be said of the file."""

    rows: Sequence[Row]
    problems: Sequence[str]

    def of(self, kind: str) -> list[Row]:
        """The rows of one kind."""
        return [row for row in self.rows if row.get("kind") == kind]


def read_lines(path: Path, *, once: bool = False) -> RecordLines:
    """Read a file of records with a `step`; where each step counts `once`, its last line does."""
    if problem := strangeness(path):
        return RecordLines([], [f"{path.name} {problem}."])
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = [(line.endswith("\n"), _row(line)) for line in file]
    except OSError as error:
        return RecordLines([], [f"{path.name} cannot be read ({error.strerror})."])
    rows = [row for _, row in found if row is not None]
    if once:
        rows = list({row["step"]: row for row in rows}.values())
    return RecordLines(sorted(rows, key=lambda row: row["step"]), list(_problems(path.name, found)))


def numbers(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """(step, value) where the value is a finite number."""
    return [(float(row["step"]), float(row[name])) for row in rows if is_number(row.get(name))]


def is_number(value: object) -> TypeGuard[float]:
    """Whether it can be drawn."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and is_number(row.get("step")) else None


def _problems(name: str, found: Sequence[tuple[bool, Row | None]]) -> Iterator[str]:
    torn = bool(found) and not found[-1][0] and found[-1][1] is None
    if torn:
        yield f"The last line of {name} is torn: the run was killed, or is writing it. It is left out."
    if unreadable := sum(row is None for _, row in found) - torn:
        yield f"{name}: {unreadable:,} line{'s are' if unreadable > 1 else ' is'} no record, and left out."
