"""A soak: steps, saves and validations, killed and resumed over and over. Nothing of a process or of the disk grows."""

import os
import re
import signal
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import end, start
from small_trainings import last_step, resume, settings_file, train

STEPS = "PYTORCH_DL_SOAK_STEPS"  # of each life at full size, a multiple of LOOKS: a night can raise it
SAVE, VALIDATE, LOOKS = 4, 20, 30  # steps between two saves and two validations; looks at each life
PATIENCE = 1800  # seconds without a step, after which it hangs
PROC, SHARED = Path("/proc"), Path("/dev/shm")
WORDS = [
    *("training.max_steps=100000000", "scheduler.name=constant"),
    *(f"training.save_every={SAVE}", f"training.eval_every={VALIDATE}", "data.num_workers=2"),
    "system.compile=false",  # what compiles has folders and processes of its own
]


class Look(NamedTuple):
    """What a process has at a step."""

    step: int
    resident_mb: float
    descriptors: int
    threads: int
    shared: int
    temporary: int


@pytest.mark.slow
@pytest.mark.skipif(not (PROC / "self" / "maps").exists(), reason="a process is looked at in /proc")
def test_j1_a_soak(case, memory, monkeypatch):
    """The first life and the last end by a signal and leave files of the same kinds; those between are killed."""
    lives, steps = case.size(3, 6), case.size(60, int(os.environ.get(STEPS, "2100")))
    config, run, scratch = settings_file(memory), memory / "run", memory / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    seen, left = [], []
    for life in range(lives):
        (process,) = start(1, resume(run) if life else train(config, run, *WORDS))
        is_asked = life in (0, lives - 1)
        try:
            seen.append(watched(process, memory, steps=steps))
            process.send_signal(signal.SIGTERM if is_asked else signal.SIGKILL)
        except BaseException:
            process.kill()
            raise
        (ended,) = end([process], seconds=PATIENCE)
        assert ended.code == (75 if is_asked else -signal.SIGKILL), ended
        left += [kinds(run)] if is_asked else []
        assert not [path for path in SHARED.glob("*") if str(process.pid) in re.findall(r"\d+", path.name)]
    one_checkpoint = len([*next(run.glob("checkpoints/step-*")).iterdir()])
    assert left[0].keys() == left[1].keys()
    assert sum(left[1].values()) <= sum(left[0].values()) + one_checkpoint, left
    assert not [path for path in scratch.rglob("*") if path.is_file()]
    rises = [rise(looks, allowed=case.size(32, 4)) for looks in seen]
    resumed = [statistics.median(look.resident_mb for look in looks[LOOKS // 2 :]) for looks in seen[1:]]
    assert resumed[-1] - resumed[0] <= case.size(32, 8), resumed
    case.survived(
        lives - 2,
        injected=f"kill -9 after each {steps:,} steps, a save every {SAVE} and a validation every {VALIDATE} of them",
        lost=f"no descriptor, thread, shared memory or file, of {least('descriptors', seen[-1])} and "
        f"{least('threads', seen[-1])}; resident memory rose by {max(rises):.1f} MB at most in a life, "
        f"by {resumed[-1] - resumed[0]:.1f} MB from the first resumed to the last",
    )


def watched(process, memory, *, steps):
    """Looks at a life, spread over so many steps or more that only it can have made."""
    looks, before = [], last_step(memory / "run")
    until = time.monotonic() + PATIENCE
    while len(looks) < LOOKS:
        step = last_step(memory / "run")
        if step >= before + steps // LOOKS:
            looks.append(look(process, memory, step))
            before, until = step, time.monotonic() + PATIENCE
        assert process.poll() is None and time.monotonic() < until, (process.returncode, looks)
        time.sleep(0.01)
    return looks


def look(process, memory, step):
    place = PROC / str(process.pid)
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    mapped = {line.split(maxsplit=5)[5] for line in (place / "maps").read_text().splitlines() if f" {SHARED}/" in line}
    return Look(
        step=step,
        resident_mb=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=len(os.listdir(place / "fd")),
        threads=int(status["Threads"]),
        shared=len([name for name in mapped if not name.startswith(str(memory))]),
        temporary=len(os.listdir(memory / "scratch")),
    )


def rise(looks, *, allowed):
    """By how many MB the memory of a life grew from its middle third to its last; nothing else may have grown."""
    middle, late = looks[LOOKS // 3 : 2 * LOOKS // 3], looks[2 * LOOKS // 3 :]
    for what in ("descriptors", "threads", "shared", "temporary"):
        assert least(what, late) <= least(what, middle), (what, looks)
    grown = statistics.median(one.resident_mb for one in late) - statistics.median(one.resident_mb for one in middle)
    assert grown <= allowed, looks
    return grown


def least(what, looks):
    """What is there all the time: a save or an epoch takes more for a moment."""
    return min(getattr(one, what) for one in looks)


def kinds(run):
    """How many files there are of each name, whatever its numbers."""
    found = {}
    for path in filter(Path.is_file, run.rglob("*")):
        name = re.sub(r"\d+", "#", str(path.relative_to(run)))
        found[name] = found.get(name, 0) + 1
    return found
