"""Full disks: what was saved stays whole, the program ends with 6, and with space it goes on to the same bits."""

import errno
import random
import resource
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from resuming import make, straight, trained
from tiny import QUIET

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.doctor.faults import Call, announced
from pytorch_dl.errors import ResourceError
from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import tracking
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.trainer import OptimizedTrainer

SETTINGS = {"max_steps": 6, "save_every": 1, "ema_decay": 0.9}
PAGE = 4096  # bytes that a disk in memory fills at once


class SmallDisk:
    """A disk of its own in memory, which is filled but for some bytes."""

    def __init__(self, folder: Path, *, size: int) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        self.mounted = not subprocess.run(command, capture_output=True).returncode

    def fill(self, *, left: int) -> None:
        free = shutil.disk_usage(self.folder).free
        (self.folder / "others").write_bytes(bytes(max(0, free - left)))

    def free(self) -> None:
        (self.folder / "others").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class SmallFiles:
    """Where no disk can be mounted: files that must not become larger than what is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, *, left: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (left, self._before[1]))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)

    def close(self) -> None:
        self.free()


@pytest.fixture
def disk(memory: Path) -> Iterator[SmallDisk | SmallFiles]:
    disk = SmallDisk(memory / "disk", size=8 << 20)
    found = disk if disk.mounted else SmallFiles(memory / "files")
    yield found
    found.close()


def filling(trainer: OptimizedTrainer, disk: SmallDisk | SmallFiles, *, at: int, left: int) -> OptimizedTrainer:
    """The trainer, whose disk is filled by others while it makes a step."""
    step = trainer.begin_step

    def begin_step(group, *, total_steps):
        if trainer.state.step + 1 == at:
            disk.fill(left=left)
        return step(group, total_steps=total_steps)

    trainer.begin_step = begin_step
    return trainer


def test_e1_a_full_disk(case, disk, memory):
    """Filled in any step, to the end of any part of a save: older checkpoints stay whole, and nothing half is left."""
    expected, rounds, rng = straight(**SETTINGS), case.size(12, 100), random.Random(1)
    whole = make(memory / "whole", **SETTINGS)
    whole.train()
    sizes = (file.stat().st_size for file in ckpt.checkpoints(whole.checkpoint_dir)[0].iterdir())
    size = sum(-(-size // PAGE) * PAGE for size in sizes)
    for number in range(rounds):
        run, at = disk.folder / "run", rng.randint(1, 6)
        trainer = filling(make(run, **SETTINGS), disk, at=at, left=rng.randrange(0, size))
        with pytest.raises(ResourceError, match=r"no space left on the disk\. Fix: free some space") as caught:
            trainer.train()
        assert caught.value.exit_code == 6
        there = ckpt.checkpoints(run / "checkpoints")
        saved = {int(path.name.removeprefix("step-")) for path in there}
        assert all(damage(path) is None for path in there), f"round {number}"
        assert not list((run / "checkpoints").glob(".*"))
        assert max(saved, default=0) == trainer.checkpoints.saved_step >= at - 1
        disk.free()
        again = make(run, **SETTINGS)
        assert again.resume() == (at > 1 or bool(saved))
        assert trained(again) == expected
        shutil.rmtree(run)
    how = "a disk" if isinstance(disk, SmallDisk) else "files"
    case.survived(rounds, injected=f"{how} filled at any step, in any part of a save", lost="no bit of what was saved")


def test_e1_it_warns_before(disk, memory):
    if isinstance(disk, SmallFiles):
        pytest.skip("no disk can be mounted here")
    trainer, said = make(disk.folder / "run", **SETTINGS), list[str]()
    trainer.checkpoints.warn_if_scarce(said.append)
    assert said == []
    disk.fill(left=2 * PAGE)
    trainer.checkpoints.warn_if_scarce(said.append)
    (line,) = said
    assert line.startswith(f"warning: {disk.folder}/run/checkpoints is to hold 4 more checkpoints of up to 0.")
    assert line.endswith("but its disk has only 0.0 MB left")


class Tracker:
    """One that raises, or hangs, when it begins, at its third call, or at its end."""

    def __init__(self, how: str) -> None:
        self.how, self.calls = how, 0

    def begin(self, settings: Mapping[str, object], *, first_step: int) -> None:
        if self.how == "raises at once":
            raise ConnectionError("no network")
        if self.how == "hangs at once":
            time.sleep(60)

    def log(self, step: int, values: Mapping[str, tracking.Value]) -> None:
        self.calls += 1
        if self.calls >= 3 and self.how == "raises":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.calls >= 3 and self.how == "hangs":
            time.sleep(60)

    def close(self) -> None:
        if self.how == "hangs at its end":
            time.sleep(60)


@pytest.mark.parametrize("how", ["raises at once", "raises", "hangs at once", "hangs", "hangs at its end"])
def test_e2_a_tracker(how, memory, monkeypatch):
    """Training is as without it, and one warning tells of it."""
    expected = straight(**SETTINGS)
    monkeypatch.setattr("pytorch_dl.training.reporter.make_trackers", lambda *args: [Tracker(how)])
    monkeypatch.setattr(tracking, "CALLS_WAITING", 8)
    monkeypatch.setattr(tracking, "CLOSING_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.warns(UserWarning, match="Tracker failed and is switched off: ") as caught:
        assert trained(make(memory / "run", **SETTINGS)) == expected
    assert len(caught) == 1
    assert time.monotonic() - started < 30


def test_e2_a_full_disk_of_logs(case, memory):
    """The record is never left with a gap: where it cannot be written, training ends, and goes on to the same bits."""
    logs = memory / "logs"

    def logging_apart(**settings) -> OptimizedTrainer:
        trainer = make(memory / "run", **settings)
        trainer.reporter.folder = logs
        return trainer

    whole = logging_apart(**SETTINGS)
    whole.train()
    expected = (logs / METRICS).read_bytes()
    opened: list[int] = []
    numbers = case.some(range(1, 12), quick=4)
    for number in numbers:
        shutil.rmtree(logs)
        shutil.rmtree(memory / "run")
        opened.clear()

        def fail(call: Call, number: int = number) -> None:
            if call.name == "open" and str(call.arguments[0]).startswith(str(logs)) and "a" in call.arguments[1:2]:
                opened.append(call.number)
                if len(opened) >= number:
                    raise OSError(errno.ENOSPC, "No space left on device", str(call.arguments[0]))

        trainer = logging_apart(**SETTINGS)
        told = rf"{logs}/(metrics|timing)\.jsonl: no space left"
        with announced(fail), pytest.raises(ResourceError, match=told) as caught:
            trainer.train()
        assert caught.value.exit_code == 6
        again = logging_apart(**SETTINGS)
        again.resume()
        again.train()
        assert (logs / METRICS).read_bytes() == expected, number
    case.survived(
        len(numbers), injected="a full disk of the record; trackers that raise or hang", lost="no line of the record"
    )


def test_e2_a_full_disk_of_tensorboard(disk, memory):
    """Curves end, with one warning; training does not."""
    if isinstance(disk, SmallFiles):
        pytest.skip("no disk can be mounted here")
    (memory / "run").mkdir()
    (memory / "run" / "tensorboard").symlink_to(disk.folder)
    settings = {**SETTINGS, "max_steps": 30}
    trainer = filling(make(memory / "run", **settings), disk, at=3, left=0)
    trainer.reporter.config = LoggingConfig(log_every=1)
    assert trainer.reporter.config.tensorboard and not QUIET.tensorboard
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert trained(trainer) == straight(**settings)
    told = [str(one.message) for one in caught if "switched off" in str(one.message)]
    assert told == ["TensorBoard failed and is switched off: [Errno 28] No space left on device"]
