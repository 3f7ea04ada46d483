"""The commit that a run notes: of the clone that keeps the source, and of no other."""

import subprocess
from pathlib import Path

import pytest

from pytorch_dl import __version__
from pytorch_dl.training import source as module
from pytorch_dl.training.source import _commit, source


def git(folder: Path, *words: str) -> str:
    me = ["-c", "user.name=me", "-c", "user.email=me@here"]
    return subprocess.run(["git", *me, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "module.py").write_text("a")
    git(folder, "init", "-q")
    git(folder, "add", "module.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_of_a_clone(clone: Path) -> None:
    head = git(clone, "rev-parse", "HEAD")
    assert _commit(clone) == head
    git(clone, "pack-refs", "--all")
    assert _commit(clone) == head
    git(clone, "worktree", "add", "-q", "../other")
    git(clone.parent / "other", "commit", "-q", "--allow-empty", "-m", "second")
    assert _commit(clone.parent / "other") == git(clone.parent / "other", "rev-parse", "HEAD") != head
    git(clone, "checkout", "-q", "--detach")
    assert _commit(clone) == head


def test_of_none(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = clone / ".venv" / "site-packages"
    copy.mkdir(parents=True)
    assert _commit(copy) == "none"
    (clone / ".git" / "HEAD").write_text("what is this")
    assert _commit(clone) == "none"
    monkeypatch.setattr(module, "ROOT", copy)
    assert source() == {"pytorch_dl": __version__, "commit": "none"}
