"""Trainings as processes: done, failed, killed, side by side; stood in for by scripts of a moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tiny_runs import environment

from pytorch_dl.config import Config
from pytorch_dl.errors import DataError, Interrupted, ResourceError
from pytorch_dl.experiments.trials import Trial, run_trials
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.run_folder import RunFolder

DONE = """
import sys, time
from pathlib import Path
from pytorch_dl.files import new_folder
run = Path(sys.argv[1])
(run / "begun").write_text(str(time.time()))
time.sleep(SLEEP)
with new_folder(run / "model") as new:
    (new / "weights").write_text("some")
(run / "report.json").write_text("{}")
(run / "ended").write_text(str(time.time()))
"""
WORDS = 'import sys; print("pytorch-dl: error: the words. Fix: mend it.", file=sys.stderr); sys.exit({code})'

PATIENT = """
import signal, sys, time

def save(*_):
    open(sys.argv[1] + "/saved", "w").close()
    sys.exit(75)

signal.signal(signal.SIGTERM, save)
time.sleep(60)
"""
CHILD = """
import os, time
from pytorch_dl.comparing.trial_process import end_with
end_with(os.getppid())
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
print(child.pid, flush=True)
child.wait()
"""


def script(text: str, sleep: float = 0.0) -> Callable[[Path], Sequence[str]]:
    return lambda run: [sys.executable, "-c", text.replace("SLEEP", str(sleep)), str(run)]


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    folders = [tmp_path / arm / "seed-1" for arm in "abc"]
    for folder in folders:
        folder.mkdir(parents=True)
    return [Trial(folder.parent.name, 1, RunFolder(folder), Config()) for folder in folders]


def test_what_is_done_is_not_begun_again(trials):
    run_trials(trials[:1], script(DONE), at_once=1, progress=Progress())
    times = (trials[0].folder.path / "begun").read_text()
    assert run_trials(trials, script(DONE), at_once=1, progress=Progress()) == {}
    assert (trials[0].folder.path / "begun").read_text() == times
    assert all(trial.is_done for trial in trials)


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_run_side_by_side(trials, at_once):
    run_trials(trials, script(DONE, sleep=1.0), at_once=at_once, progress=Progress())
    spans = [[float((t.folder.path / name).read_text()) for name in ("begun", "ended")] for t in trials]
    most = max(sum(begun <= moment < ended for begun, ended in spans) for moment, _ in spans)
    assert most == at_once


def test_numbers_that_are_not_finite_end_one_training_and_no_other(trials):
    def command(run: Path) -> Sequence[str]:
        return script(WORDS.format(code=5) if run.parent.name == "b" else DONE)(run)

    assert run_trials(trials, command, at_once=1, progress=Progress()) == {trials[1]: "the words."}
    assert [trial.is_done for trial in trials] == [True, False, True]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (WORDS.format(code=3), DataError, r"a, seed 1: the words\. Fix: see .*seed-1\.log; the same command goes on"),
        ("import os; os.kill(os.getpid(), 9)", ResourceError, "a, seed 1 ended with -9"),
        ("", DataError, "a, seed 1: it was not scored"),
        (WORDS.format(code=75), Interrupted, "a, seed 1 was stopped"),
    ],
)
def test_whatever_else_ends_one_ends_all(trials, text, error, message):
    with pytest.raises(error, match=message):
        run_trials(trials, script(text), at_once=1, progress=Progress())
    assert not trials[1].log.exists()


def test_the_others_are_let_save_first(trials):
    def command(run: Path) -> Sequence[str]:
        return script(PATIENT if run.parent.name == "a" else f"import time; time.sleep(1); {WORDS.format(code=3)}")(run)

    with pytest.raises(DataError, match="b, seed 1"):
        run_trials(trials, command, at_once=2, progress=Progress())
    assert (trials[0].folder.path / "saved").exists()


def test_a_training_ends_when_the_process_that_began_it_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PARENT], env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    pid = int(process.stdout.readline())
    time.sleep(1)
    os.kill(pid, 0)  # it waits
    process.send_signal(signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 20
    while time.monotonic() < end and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether it is there, and not only waits to be noticed as gone."""
    state = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
