"""What the cases of reliability share: a size for every change and one for a night, and the record of each case.

A case is a test whose name begins with its number: test_d4_... is D4. With PYTORCH_DL_RELIABILITY=FILE cases run at
full size, and each writes what it injected, how often, and what was lost, into FILE. `make reliability` does that.
"""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytorch_dl.files import write_json

RECORD = "PYTORCH_DL_RELIABILITY"


class Case:
    """One of them: how often it injects, and what it then tells."""

    def __init__(self, name: str, record: Path | None) -> None:
        self.name, self._record = name, record

    def size(self, quick: int, full: int) -> int:
        """How often to inject: on every change, or in a night."""
        return full if self._record else quick

    def some(self, injections: Sequence[Any], quick: int) -> list[Any]:
        """All of them in a night, else so many, evenly spread."""
        size = min(self.size(quick, len(injections)), len(injections))
        return [injections[number * len(injections) // size] for number in range(size)]

    def survived(self, times: int, *, injected: str, lost: str) -> None:
        """Write down that so many injections were survived."""
        if not self._record:
            return
        with _alone(self._record):
            found: dict[str, Any] = json.loads(self._record.read_bytes()) if self._record.exists() else {}
            found[self.name] = {"injected": injected, "times": times, "lost": lost, **_versions()}
            write_json(self._record, dict(sorted(found.items())))


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case that the test is."""
    record = os.environ.get(RECORD)
    return Case(request.function.__name__.split("_")[1].upper(), Path(record) if record else None)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a place: a sync of a disk takes longer than a tiny step."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if place.is_dir() else None) as folder:
        yield Path(folder)


@contextmanager
def _alone(record: Path) -> Iterator[None]:
    """While no other case writes into the record: several run at a time."""
    folder = os.open(record.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _versions() -> dict[str, Any]:
    from benchmark.measuring.machine import machine

    where = machine()
    return {name: where[name] for name in ("date", "commit", "uncommitted_changes", "cpu", "torch", "python")}
