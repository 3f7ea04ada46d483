"""Links, pipes and devices in a folder that anyone may have made: told, and refused before they are opened."""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from pytorch_dl.errors import CheckpointError


def strangeness(path: Path, *, most: int | None = None) -> str | None:
    """Say why a file that anyone may have made is not to be opened: only a plain one of at most so many bytes is."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    if most is not None and found.st_size > most:
        return f"has {found.st_size:,} bytes, expected at most {most:,}"
    return None


def strange_entries(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Links, pipes and devices in a folder; if not `deep`, links to folders pass, which may lie on another disk."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):  # there is none, or a save has just renamed it
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=not deep):
            if deep:
                yield from strange_entries(Path(entry.path), deep=True)
        elif not entry.is_file(follow_symlinks=False):
            yield Path(entry.path)


def refuse_strange(paths: Iterable[Path]) -> None:
    """Raise for the first of these at which a link, pipe or device lies: we would read or write what it leads to."""
    for path in paths:
        if os.path.lexists(path) and strangeness(path):
            raise CheckpointError(
                "is not a plain file, but a link, a pipe or a device",
                where=str(path),
                fix="look at where it leads, then delete it or put the file itself there",
            )


def open_plain(path: str | Path, flags: int) -> int:
    """Open a plain file, or make it: an `opener` for what is written in place."""
    refuse_strange([Path(path)])
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
