"""From which source a run was trained: the version, and in a clone the commit."""

import subprocess
from pathlib import Path

from pytorch_dl import __version__

_SECONDS = 5.0  # for git to answer


def source() -> dict[str, str]:
    """The version, and the commit with `-dirty` behind it where files were changed since, or `none`."""
    return {"pytorch_dl": __version__, "commit": _commit(Path(__file__)) or "none"}


def _commit(file: Path) -> str:
    """That of the clone which keeps a file; an installed copy within another project's clone is not of its commit."""
    if not _git(file.parent, "ls-files", "--", file.name):
        return ""
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
