"""`doctor` finds a disk and a writer fine that are, and says so of none that is not."""

import contextlib
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import call

from pytorch_dl.doctor import checkup, kills
from pytorch_dl.doctor.checkup import examine
from pytorch_dl.errors import ResourceError


def test_this_machine_is_fine(tmp_path, capsys):
    result = call(capsys, "doctor", str(tmp_path / "disk"), "--kills", "0")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert any(line.startswith("      torch: 2.") for line in lines)
    assert any(line.startswith("      fastest safe precision: ") for line in lines)
    (saves,) = [line for line in lines if "a save killed at each call" in line]
    assert saves.startswith("good  ")
    assert int(saves.split(": ")[1].split(" kills")[0]) > 15
    assert list((tmp_path / "disk").iterdir()) == []


@contextlib.contextmanager
def written_in_place(path: Path):
    """Not how a folder is replaced."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    (path / "manifest.json").write_text("{}")


def test_a_writer_that_tears_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkup, "new_folder", written_in_place)
    result = call(capsys, "doctor", str(tmp_path), "--kills", "0")
    assert result.code == 6
    assert "BAD   a save killed at each call: call " in result.out
    assert result.error_lines == [
        f"pytorch-dl: error: {tmp_path}: not fine: a save killed at each call. Fix: keep runs on another disk, and "
        "tell us what you saw."
    ]


def test_a_scarce_disk_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(checkup, "SCARCE", 1 << 60)
    found = {what: fine for what, _, fine in examine(tmp_path, kills=0)}
    assert found["free disk"] is False


def test_a_folder_that_cannot_be_written_to(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    result = call(capsys, "doctor", str(tmp_path / "file"))
    assert result.code == 6
    assert f"{tmp_path}/file: cannot write here: File exists. Fix: choose another folder." in result.err


@pytest.fixture
def stuck(monkeypatch):
    """Trainings that tell a line and then do nothing; returns their processes."""
    begun, real = [], subprocess.Popen

    def popen(command, **options):
        program = "import sys, time; print('the last words', file=sys.stderr, flush=True); time.sleep(60)"
        begun.append(real([sys.executable, "-c", program], **options))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return begun


def test_a_training_that_is_stuck_is_told_as_such_and_ended(stuck, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "LIFE_SECONDS", 4)
    with pytest.raises(ResourceError, match="a training did not end within 4 seconds: the last words"):
        kills.finish(tmp_path / "config.json", tmp_path / "run")
    assert [process.returncode for process in stuck] == [-signal.SIGKILL]


def test_a_training_does_not_outlive_the_doctor(stuck, tmp_path, monkeypatch):
    """As when it is interrupted."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kills, "wait_for", interrupt)
    with pytest.raises(KeyboardInterrupt):
        kills.train_with_kills(tmp_path / "config.json", tmp_path / "run", 1, random.Random(0), steps=10)
    assert [process.returncode for process in stuck] == [-signal.SIGKILL]


@pytest.mark.slow
def test_a_training_that_is_killed(tmp_path):
    last = [*examine(tmp_path, kills=2)][-1]
    assert last.what == "a training killed and resumed"
    assert last.fine
    assert last.seen.startswith("2 kills, ")
