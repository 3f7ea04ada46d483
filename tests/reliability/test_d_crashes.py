"""Crash and resume: a run that is killed anywhere goes on to the same bits, and damage is never trained on."""

import errno
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from failing_calls import failing_at, number_of_calls
from faults_of_files import damaged
from resuming import make, straight, trained
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.doctor.faults import killed_at
from pytorch_dl.doctor.kills import SAVE_EVERY, compare
from pytorch_dl.errors import CheckpointError
from pytorch_dl.failures import told
from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.trainer import OptimizedTrainer

SETTINGS = {"max_steps": 6, "save_every": 2, "ema_decay": 0.9}
SAVED = (0, 2, 4, 6, 6)  # at the end again, with its validation; step 2 is deleted
ERRORS = (errno.EIO, errno.ENOSPC, errno.EINTR)
SYSTEM_CALLS = r"/^(open|p?write|f(data)?sync|rename|unlink|mkdir|rmdir|ftruncate|copy_file_range)"


class Saves:
    """How many saves have ended, also where they end in a child that is killed."""

    def __init__(self) -> None:
        self._number = mmap.mmap(-1, 1)

    @property
    def ended(self) -> int:
        return self._number[0]

    def of(self, trainer: OptimizedTrainer) -> OptimizedTrainer:
        """The trainer, whose saves are counted."""
        save, self._number[0] = trainer.checkpoints.save, 0

        def counted(state) -> None:
            save(state)
            self._number[0] += 1

        trainer.checkpoints.save = counted
        return trainer


def goes_on(run: Path, saves: Saves) -> None:
    """Old or new is there, and nothing else, and from it training ends with the bits of one that was left alone."""
    folder = run / "checkpoints"
    whole = [path for path in folder.glob("*step-*") if damage(path) is None]  # one that stepped aside comes back
    assert len(whole) >= min(2, saves.ended)
    again = make(run, **SETTINGS)
    again.model.load_state_dict(tiny_model(seed=99).state_dict())
    if not again.resume():
        again = make(run, **SETTINGS)
    assert again.state.step in SAVED[saves.ended :][:2]
    assert not list(folder.glob(".*"))
    assert trained(again) == straight(**SETTINGS)


def test_d1_killed_at_each_call(case, memory):
    """Of the system calls too, where strace is there: among them the writes, of which Python sees only some."""
    straight(**SETTINGS)
    calls = number_of_calls(make(memory / "whole", **SETTINGS).train)
    assert calls > 150
    saves = Saves()
    numbers = case.some(range(1, calls + 1), quick=18)
    for number in numbers:
        run = memory / str(number)
        trainer = saves.of(make(run, **SETTINGS))
        assert killed_at(number, trainer.train), number
        goes_on(run, saves)
        shutil.rmtree(run)
    kills = len(numbers)
    if case.size(0, 1) and shutil.which("strace"):
        kills += killed_at_each_system_call(memory, saves)
    case.survived(kills, injected="kill -9 at each call to the file system", lost="no bit; the old or the new is there")


def killed_at_each_system_call(memory: Path, saves: Saves) -> int:
    def begun() -> OptimizedTrainer:
        shutil.rmtree(memory / "run", ignore_errors=True)
        return saves.of(make(memory / "run", **SETTINGS))

    log = memory / "calls"
    assert under_strace(begun().train, "-e", f"trace={SYSTEM_CALLS}", "-o", str(log)) == 0
    found = Counter(re.findall(r"^\d+\s+(\w+)\(", log.read_text(), re.MULTILINE))
    assert {"write", "fsync", "rename"} <= found.keys()
    for name, count in sorted(found.items()):
        for number in range(1, count + 1):
            kill = f"inject={name}:signal=SIGKILL:when={number}"
            assert under_strace(begun().train, "-e", f"trace={name}", "-e", kill, "-o", "/dev/null") == -signal.SIGKILL
            goes_on(memory / "run", saves)
    return found.total()


def under_strace(action: Callable[[], object], *options: str) -> int:
    """Run the action in a child that strace looks at; returns how it ended, minus the signal where by one."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
            action()
            code = 0
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    command = ["strace", "-f", "-p", str(child), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        assert "attached" in (line := tracer.stderr.readline()), line
        os.kill(child, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code


def test_d3_each_call_fails(case, memory):
    """Alone, or with all that follow, until the process ends."""
    straight(**SETTINGS)
    calls = number_of_calls(make(memory / "whole", **SETTINGS).train)
    saves = Saves()
    faults = [(n, error, after) for n in range(1, calls + 1) for error in ERRORS for after in (False, True)]
    faults = case.some(faults, quick=20)
    for number, error, and_after in faults:
        run = memory / f"{number}-{error}-{and_after}"
        trainer = saves.of(make(run, **SETTINGS))
        try:
            with failing_at(number, error, and_after=and_after):
                trainer.train()
        except Exception as raised:
            line, code = told(raised)
            assert code in (4, 6), f"{number}: {line}"
        goes_on(run, saves)
        shutil.rmtree(run)
    how = "EIO, ENOSPC or EINTR at each call to the file system, once or from then on"
    case.survived(len(faults), injected=how, lost="no bit")


@pytest.mark.slow
def test_d4_kill_9_at_any_moment(case, tmp_path):
    """Half of the kills while a checkpoint is written, some at the start of a process."""
    kills = case.size(2, 200)
    found = compare(tmp_path, kills, random.Random(4))
    assert found["kills_survived"] == kills
    assert found["equal"], found["different"]
    assert found["lost_steps_max"] <= SAVE_EVERY
    case.survived(
        kills,
        injected=f"kill -9 at any moment, {found['kills_in_a_save']} while saving",
        lost=f"no bit; at most {found['lost_steps_max']} steps done again, of {SAVE_EVERY} between saves",
    )


def small(folder: Path) -> OptimizedTrainer:
    settings = {"max_steps": 6, "save_every": 2, "ema_decay": 0.9, "keep_checkpoints": 3}
    return tiny_trainer(folder, settings=settings, train_dataloader=tiny_loader(12, packed=True, max_tokens=20))


def test_d6_a_damaged_newest_checkpoint(case, tmp_path):
    """By a flipped bit, a cut, an emptied or a missing file: the one before is used, and never the damaged one."""
    trainer = small(tmp_path / "run")
    trainer.train()
    whole = trainer.checkpoint_dir
    newest, before = ckpt.checkpoints(whole)[:2]
    times, rng = case.size(60, 1000), random.Random(6)
    again = small(tmp_path / "again")
    for number in range(times):
        target = again.checkpoint_dir
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(whole, target)
        what = damaged(target / newest.name, rng)
        assert again.resume(), what
        assert again.state.step == int(before.name.removeprefix("step-")), f"{number}: {what}"
    case.survived(times, injected="a bit, a cut, an empty or missing file in the newest checkpoint", lost="nothing")


def test_d6_none_whole(tmp_path):
    trainer = small(tmp_path / "run")
    trainer.train()
    rng = random.Random(zlib.crc32(b"none"))
    for path in ckpt.checkpoints(trainer.checkpoint_dir):
        damaged(path, rng)
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints is whole"):
        small(tmp_path / "run").resume()


class Rotation:
    """Steps 1, 2 and 3 are saved, of which two are kept beside the best; then 4 is, in a process that resumed."""

    def __init__(self, folder: Path, *, best_before: int, best: int, damaged_newer: bool) -> None:
        self.start, self.run, self.best = folder / "start", folder / "run", best
        trainer = make(self.start)
        for step in (1, 2, 3):
            self.save(trainer, step, best_before)
        if damaged_newer:
            newer = shutil.copytree(trainer.checkpoint_dir / ckpt.name_of(3), trainer.checkpoint_dir / ckpt.name_of(9))
            (newer / ckpt.MODEL).write_bytes(b"torn")

    def begin(self) -> OptimizedTrainer:
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.start, self.run)
        return make(self.run)

    def resumed(self) -> OptimizedTrainer:
        trainer = self.begin()
        self.resume(trainer)
        return trainer

    def resume(self, trainer: OptimizedTrainer) -> None:
        assert trainer.resume()
        assert trainer.state.step == 3

    def rotate(self, trainer: OptimizedTrainer) -> None:
        self.save(trainer, 4, self.best)

    def both(self, trainer: OptimizedTrainer) -> None:
        self.resume(trainer)
        self.rotate(trainer)

    def save(self, trainer: OptimizedTrainer, step: int, best: int) -> None:
        trainer.state.step, trainer.state.best_step = step, best
        trainer.save()

    def look(self) -> None:
        """Two are whole, the best is there, nothing half is left, and with the next saves all is as ever."""
        trainer = make(self.run)
        assert trainer.resume()
        assert trainer.state.step in (3, 4)
        whole = {path.name for path in ckpt.checkpoints(trainer.checkpoint_dir) if damage(path) is None}
        assert len(whole) >= 2
        assert ckpt.name_of(trainer.state.best_step) in whole
        assert not list(trainer.checkpoint_dir.glob(".*"))
        best = trainer.state.best_step
        for step in (5, 6):
            self.save(trainer, step, best)
        left = {path.name for path in ckpt.checkpoints(trainer.checkpoint_dir)}
        assert left == {ckpt.name_of(step) for step in (5, 6, best)}


def test_d9_rotation(case, memory):
    """With the best outside of those to keep, or a new one, and a damaged newer one: there are always two whole."""
    kinds = [(before, best, newer) for before, best in ((1, 1), (1, 4), (3, 3)) for newer in (False, True)]
    kills, errors = [], []
    for kind in kinds:
        folder = memory / "-".join(map(str, kind))
        rotation = Rotation(folder, best_before=kind[0], best=kind[1], damaged_newer=kind[2])
        kills += [(rotation, number) for number in calls_of(rotation.both, rotation.begin())]
        errors += [(rotation, n, error) for n in calls_of(rotation.rotate, rotation.resumed()) for error in ERRORS]
    kills, errors = case.some(kills, quick=30), case.some(errors, quick=30)
    for rotation, number in kills:
        assert killed_at(number, partial(rotation.both, rotation.begin()))
        rotation.look()
    for rotation, number, error in errors:
        trainer = rotation.resumed()
        try:
            with failing_at(number, error, and_after=number % 2 == 0):
                rotation.rotate(trainer)
        except Exception as raised:
            assert told(raised)[1] == 6, told(raised)
        rotation.look()
    case.survived(
        len(kills) + len(errors),
        injected="kill -9 or an error at each call of a save that deletes an older one",
        lost="nothing; two are always whole, and the best is one",
    )


def calls_of(action: Callable[[OptimizedTrainer], None], trainer: OptimizedTrainer) -> range:
    return range(1, number_of_calls(partial(action, trainer)) + 1)
