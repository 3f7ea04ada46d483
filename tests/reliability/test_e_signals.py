"""Signals: whenever one comes, the step is saved, the code is 75, and nothing is lost."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from failing_calls import number_of_calls
from processes import end, start, together
from resuming import make, straight, trained
from small_trainings import last_step, outcome, resume, settings_file, train, wait_for_step
from tiny_runs import environment

from pytorch_dl.doctor.faults import Call, announced
from pytorch_dl.doctor.kills import newest_checkpoint
from pytorch_dl.errors import Interrupted
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.trainer import OptimizedTrainer

SETTINGS = {"max_steps": 6, "save_every": 2, "ema_decay": 0.9}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.slow
def test_e3_sigterm_at_any_moment(case, tmp_path):
    """From the start of a process on, again and again; at last, the steps since the last save are recomputed."""
    config, run = settings_file(tmp_path), tmp_path / "run"
    words = ("training.max_steps=100000", "system.compile=false")  # to compile takes half a minute of each life
    times, rng, slowest = case.size(4, 100), random.Random(3), 0.0
    for number in range(times):
        begun = (run / "config.yaml").exists()
        (process,) = start(1, resume(run) if begun else train(config, run, *words))
        time.sleep(rng.uniform(0.5, 6.0))
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        (ended,) = end([process])
        slowest = max(slowest, time.monotonic() - asked)
        unloaded = ended.code == -signal.SIGTERM and not ended.err  # Python was not so far that it could know of us
        assert ended.code == 75 or unloaded, f"{number}: {ended}"
        assert newest_checkpoint(run) == last_step(run), number
    (replayed,) = together(1, ["-m", "pytorch_dl", "replay", str(run)])
    assert replayed.code == 0, replayed.err
    case.survived(times, injected="SIGTERM at any moment", lost=f"no step; the slowest answer took {slowest:.1f} s")


def in_a_save(trainer: OptimizedTrainer, at_call: Callable[[Call], None], *, of_step: int) -> OptimizedTrainer:
    """The trainer, of which one save announces its calls to the file system."""
    save = trainer.checkpoints.save

    def announcing(state: Any) -> None:
        if state.step != of_step:
            return save(state)
        with announced(at_call):
            save(state)

    trainer.checkpoints.save = announcing
    return trainer


def calls_of_a_save(folder: Path) -> int:
    trainer = make(folder, **SETTINGS)
    save, numbers = trainer.checkpoints.save, list[int]()
    trainer.checkpoints.save = lambda state: numbers.append(number_of_calls(lambda: save(state)))
    trainer.train()
    return min(numbers)


def test_e4_inside_a_save(case, memory):
    """The save is done, the step is not lost, and a resumed training ends with the same bits."""
    straight(**SETTINGS)
    calls = calls_of_a_save(memory / "whole")
    moments = [(number, which, step) for number in range(1, calls + 1) for which in SIGNALS for step in (2, 4)]
    moments = case.some(moments, quick=12)
    for number, which, step in moments:
        run = memory / f"{number}-{which}-{step}"

        def send(call: Call, number: int = number, which: int = which) -> None:
            if call.number == number:
                os.kill(os.getpid(), which)

        trainer = in_a_save(make(run, **SETTINGS), send, of_step=step)
        told = f"stopped by signal {int(which)} at step {step}, which is saved"
        with pytest.raises(Interrupted, match=told) as caught:
            trainer.train()
        assert caught.value.exit_code == 75
        again = make(run, **SETTINGS)
        assert again.resume()
        assert again.state.step == step
        assert trained(again) == straight(**SETTINGS)
        shutil.rmtree(run)
    case.survived(len(moments), injected="SIGINT, SIGTERM or SIGHUP at each call of a save", lost="no step")


@pytest.mark.parametrize("which", SIGNALS)
def test_e4_a_second_one_inside_a_save(which, case, memory, monkeypatch):
    """Ends at once with 128 + its number; the old checkpoint or the new one is there."""
    monkeypatch.setattr("pytorch_dl.training.signals.ONE_REQUEST_SECONDS", 0.0)
    straight(**SETTINGS)
    calls = calls_of_a_save(memory / "whole")
    for number in case.some(range(1, calls), quick=2):
        run = memory / str(number)

        def send(call: Call, number: int = number) -> None:
            if call.number == number:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), which)

        child = os.fork()
        if child == 0:
            try:
                in_a_save(make(run, **SETTINGS), send, of_step=4).train()
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + which
        again = make(run, **SETTINGS)
        assert again.resume()
        assert again.state.step in (2, 4)
        assert not list(again.checkpoint_dir.glob(".*"))
        assert trained(again) == straight(**SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize("by_timeout", [False, True])
def test_e4_sent_twice_by_a_launcher(by_timeout, case, tmp_path):
    """Five milliseconds apart, or by `timeout`, which signals its child and then its group: the step is saved."""
    config, rng = settings_file(tmp_path), random.Random(5)
    words = ("training.max_steps=100000", "training.save_every=100000", "system.compile=false")
    for number in range(case.size(2, 25)):
        run = tmp_path / str(number)
        command = [*(["timeout", "600"] if by_timeout else []), sys.executable, *train(config, run, *words)]
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
        try:
            wait_for_step(run, 5)
            time.sleep(rng.uniform(0, 0.1))
            process.send_signal(signal.SIGTERM)
            time.sleep(0.005)
            if not by_timeout:
                process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 75, told
        assert "stopped by signal 15 at step" in told
        (saved,) = ckpt.checkpoints(run / "checkpoints")
        assert json.loads((saved / "state.json").read_bytes())["step"] == last_step(run)


@pytest.mark.slow
def test_e4_stopped_and_continued(case, tmp_path):
    """By SIGSTOP and SIGCONT, as at a terminal or by a scheduler: nothing is noticed."""
    config, rounds, rng = settings_file(tmp_path), case.size(5, 30), random.Random(4)
    run, steps = tmp_path / "run", ["training.max_steps=1000", "training.save_every=100", "training.eval_every=500"]
    (process,) = start(1, train(config, run, *steps))
    wait_for_step(run, 1)
    for _ in range(rounds):
        process.send_signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0.01, 0.1))
        process.send_signal(signal.SIGCONT)
        time.sleep(rng.uniform(0.01, 0.2))
    assert process.poll() is None, "all came while it trained"
    assert end([process])[0].code == 0
    (whole,) = together(1, train(config, tmp_path / "whole", *steps))
    assert whole.code == 0, whole.err
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_e4_a_reader_that_leaves(case, tmp_path):
    """As in `2>&1 | head -1`: training goes on to its end, with no traceback for anyone."""
    config, whole = settings_file(tmp_path), None
    for number in range(case.size(2, 30)):
        run = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, *train(config, run)], env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        assert process.stderr is not None
        for _ in range(number % 4):
            assert b"Traceback" not in process.stderr.readline()
        process.stderr.close()
        assert process.wait(timeout=120) == 0
        whole = whole or outcome(run)
        assert outcome(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("is_asked", [False, True], ids=["to its end", "SIGTERM"])
def test_e4_a_reader_that_hangs(is_asked, tmp_path, full_pipe):
    """As a stopped `tee`, with a full pipe: training goes on to its end, or is saved when it is asked to stop."""
    config, run = settings_file(tmp_path), tmp_path / "run"
    steps = ["training.max_steps=100000"] if is_asked else []
    process = subprocess.Popen([sys.executable, *train(config, run, *steps)], env=environment(), stderr=full_pipe)
    try:
        if is_asked:
            wait_for_step(run, 60)
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == (75 if is_asked else 0)
    finally:
        process.kill()
        process.wait()
    (newest, *_) = ckpt.checkpoints(run / "checkpoints")
    assert json.loads((newest / "state.json").read_bytes())["step"] == last_step(run)
    assert RunFolder(run).is_finished != is_asked


@pytest.fixture
def full_pipe():
    """The end of a pipe to write to, of which nobody reads the other."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


@pytest.mark.slow
def test_e4_a_reader_that_left_hears_no_error(tmp_path):
    """The exit code is that of the error, though its line reaches nobody."""
    program = "import sys; sys.argv[1:] = ['resume', 'nothing']; from pytorch_dl.entry import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program], env=environment(), stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=60) == 4
