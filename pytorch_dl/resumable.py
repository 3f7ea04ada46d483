"""A long text file that is written bit by bit, and goes on after a kill where it stopped, to the same bytes.

While it grows it is called FILE.part, with FILE.part.json beside it: how many source lines it holds, in how many bytes,
a hash of those lines, and what work it is of. What was written behind those bytes is cut off when it goes on. When it
is complete, the note stays as FILE.job.json: it tells what the file is of, and that the same work need not be done
again. FILE.part is locked while a process writes it.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytorch_dl.errors import CheckpointError, ConfigError, ResourceError
from pytorch_dl.files import disk_errors, sync_folder, write_json
from pytorch_dl.plain_files import open_plain, refuse_strange


class ResumableFile:
    """The file being written; `job` says what work it is of: only the same work may go on with it."""

    def __init__(self, path: Path, job: dict[str, Any], *, resume: bool) -> None:
        self.path, self.job = path, json.loads(json.dumps(job))
        self.part, self.journal, self.note = (
            path.with_name(f"{path.name}.{end}") for end in ("part", "part.json", "job.json")
        )
        refuse_strange((self.part, self.journal, self.note))
        self.lines = self.bytes = 0
        self.source = ""  # a hash of the source lines that it holds
        if path.exists() and not resume:
            raise ConfigError("the file exists", where=str(path), fix="delete it, or choose another --out")
        if self.journal.exists() and not resume:
            fix = "go on with --resume, or delete it"
            raise ConfigError("an unfinished translation lies there", where=str(self.part), fix=fix)
        if path.exists() and self.journal.exists() and not self.part.exists():  # killed between the last two calls
            os.replace(self.journal, self.note)
        self.complete = path.exists()
        if self.complete and not self.note.exists():
            fix = "delete it, or choose another --out"
            raise ConfigError(f"the file exists, and no {self.note.name} tells what it is of", where=str(path), fix=fix)
        if self.complete:
            self._read(self.note, path)
        elif self.journal.exists():
            self._read(self.journal, self.part)

    def __enter__(self) -> Self:
        if not self.complete:
            with disk_errors(self.part):
                self.part.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(open_plain(self.part, os.O_RDWR | os.O_CREAT), "r+b")
                self._lock()
                self._file.truncate(self.bytes)
                self._file.seek(self.bytes)
                self._note()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.complete:
            return
        self._file.close()
        if kind is None:
            with disk_errors(self.path):
                os.replace(self.part, self.path)
                sync_folder(self.path.parent)
                os.replace(self.journal, self.note)
        elif not self.lines:
            self.journal.unlink(missing_ok=True)
            self.part.unlink(missing_ok=True)

    def append(self, printed: Sequence[str], count: int, *, source: str) -> None:
        """Add what `count` source lines became, and note it on the disk; `source` is a hash of all lines until now."""
        content = "".join(f"{line}\n" for line in printed).encode()
        with disk_errors(self.part):
            self._file.write(content)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.lines, self.bytes, self.source = self.lines + count, self.bytes + len(content), source
        self._note()

    def _lock(self) -> None:
        """Keep others out for as long as the file is open, and see what the last one who had it left."""
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.part))
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held or self.path.exists():
            self._file.close()
            fix = "wait for it to end, or choose another --out"
            raise ResourceError("another process is writing this file", where=str(self.path), fix=fix)
        if self.journal.exists():
            self._read(self.journal, self.part)

    def _note(self) -> None:
        noted = {"lines": self.lines, "bytes": self.bytes, "source": self.source, "job": self.job}
        write_json(self.journal, noted)

    def _read(self, note: Path, written: Path) -> None:
        """What is noted of a file; raises where it is damaged, or of other work."""
        try:
            noted = json.loads(note.read_bytes())
            self.lines, self.bytes, self.source = int(noted["lines"]), int(noted["bytes"]), str(noted["source"])
            job = dict(noted["job"])
            whole = written.stat().st_size >= self.bytes and min(self.lines, self.bytes) >= 0
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            whole = False
        if not whole:
            fix = f"delete {written} and {note.name}, and begin anew"
            raise CheckpointError("is damaged: it does not tell what is translated", where=str(note), fix=fix)
        if changed := sorted(key for key in {*job, *self.job} if job.get(key) != self.job.get(key)):
            raise ConfigError(
                f"it was begun with another {', '.join(changed)}",
                where=str(written),
                fix="give the same command again, or delete it and begin anew",
            )
