"""From which source a run was trained: the version, and in a clone the commit.

The clone's files are read: to train starts no other program.
"""

import re
from pathlib import Path

from pytorch_dl import __version__

ROOT = Path(__file__).resolve().parents[2]
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_POINTER, _REF = "gitdir: ", "ref: "


def source() -> dict[str, str]:
    """The version, and the commit that is checked out, or `none`."""
    return {"pytorch_dl": __version__, "commit": _commit(ROOT)}


def _commit(root: Path) -> str:
    """That of the clone whose root it is; an installed copy is in the root of none."""
    try:
        found = _checked_out(root)
    except (OSError, UnicodeDecodeError):
        return "none"
    return found if _COMMIT.fullmatch(found) else "none"


def _checked_out(root: Path) -> str:
    git = root / ".git"
    if git.is_file():  # of a worktree
        git = root / git.read_text().strip().removeprefix(_POINTER)
    head = (git / "HEAD").read_text().strip()
    if not head.startswith(_REF):
        return head
    name, shared = head.removeprefix(_REF), git
    if (git / "commondir").is_file():
        shared = git / (git / "commondir").read_text().strip()
    if (shared / name).is_file():
        return (shared / name).read_text().strip()
    packed = (line.split() for line in (shared / "packed-refs").read_text().splitlines())
    return next((words[0] for words in packed if words[1:] == [name]), "none")
