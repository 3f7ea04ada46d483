"""The commit that a run notes: of the clone that keeps the source, and of no other."""

import subprocess
from pathlib import Path

import pytest

from pytorch_dl import __version__
from pytorch_dl.training.source import _commit, source


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A file that a clone keeps."""
    file = tmp_path / "clone" / "package" / "module.py"
    file.parent.mkdir(parents=True)
    file.write_text("a")
    me = ["-c", "user.name=me", "-c", "user.email=me@here"]
    for words in (["init", "-q"], ["add", "package"], [*me, "commit", "-q", "-m", "first"], ["tag", "v1"]):
        subprocess.run(["git", *words], cwd=tmp_path / "clone", check=True)
    return file


def test_of_a_clone(clone: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone.parent, capture_output=True, text=True, check=True)
    assert _commit(clone) == head.stdout.strip()
    clone.write_text("b")
    assert _commit(clone) == f"{head.stdout.strip()}-dirty"


def test_of_an_installed_copy_within_a_clone(clone: Path) -> None:
    copy = clone.parent.parent / ".venv" / "module.py"
    copy.parent.mkdir()
    copy.write_text("a")
    assert _commit(copy) == ""


def test_without_git(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _commit(tmp_path / "elsewhere.py") == ""
    monkeypatch.setenv("PATH", "")
    assert _commit(clone) == ""
    assert source() == {"pytorch_dl": __version__, "commit": "none"}
