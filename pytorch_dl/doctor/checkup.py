"""The examination: facts of the machine, a save that is killed at each of its calls, a training that is killed.

Everything happens in a folder made for it on the disk in question, and deleted afterwards.
"""

import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from pytorch_dl.doctor.faults import killed_at
from pytorch_dl.doctor.kills import SAVE_EVERY, compare
from pytorch_dl.files import damage, disk_errors, new_folder, remove_leftovers, write_file
from pytorch_dl.models.compilers import missing_for_compilation
from pytorch_dl.training.precision import choose_precision
from pytorch_dl.training.run_folder import environment

SYNCS = 5
SAVED = {"weights": 1 << 20, "optimizer": 2 << 20, "state": 100}  # bytes of the files of the save that is killed
SCARCE = 1 << 30


class Result(NamedTuple):
    """What was looked at, and what was seen; `fine` None is a fact, neither good nor bad."""

    what: str
    seen: str
    fine: bool | None = None


def examine(folder: Path, *, kills: int) -> Iterator[Result]:
    """Look at the machine, then at the disk of `folder`, then at a training on it that is killed so many times."""
    yield from _machine()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="pytorch-dl-doctor-", dir=folder))
    try:
        yield from _disk(scratch)
        yield _killed_saves(scratch / "saves")
        if kills:
            yield _killed_training(scratch, kills)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _machine() -> Iterator[Result]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, value in environment().items():
        yield Result(name, str(value))
    yield Result("fastest safe precision", choose_precision(True, device))
    missing = missing_for_compilation(device.type)
    yield Result("compiled layers", f"not possible: {missing} is missing" if missing else "possible")


def _disk(scratch: Path) -> Iterator[Result]:
    free = shutil.disk_usage(scratch).free
    yield Result("free disk", f"{free / 2**30:,.1f} GiB", free >= SCARCE)
    begin = time.perf_counter()
    for number in range(SYNCS):
        write_file(scratch / "sync", str(number))
    yield Result("a small file made durable", f"{(time.perf_counter() - begin) / SYNCS * 1e3:,.1f} ms")


def _killed_saves(folder: Path) -> Result:
    """A folder is replaced by another, and the process dies before each call that touches the disk, one after another.

    Afterwards there is always a whole folder, the old one or the new one, and nothing else.
    """
    target, number, states = folder / "checkpoint", 0, set()
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        _save(target, b"old")
        if not killed_at(number + 1, lambda: _save(target, b"new")):
            break
        number += 1
        remove_leftovers(folder)
        if (reason := damage(target)) or len(list(folder.iterdir())) != 1:
            return Result(
                "a save killed at each call", f"call {number} left {reason or 'something behind'}", fine=False
            )
        states.add((target / "state").read_bytes()[:3])
    fine = states == {b"old", b"new"}
    return Result("a save killed at each call", f"{number} kills, each left the old or the new one whole", fine)


def _save(target: Path, content: bytes) -> None:
    with new_folder(target) as new:
        for name, size in SAVED.items():
            write_file(new / name, content + bytes(size))


def _killed_training(scratch: Path, kills: int) -> Result:
    found = compare(scratch, kills, random.Random(0))
    fine = found["equal"] and found["lost_steps_max"] <= SAVE_EVERY
    bits = "the same bits" if found["equal"] else f"other bits in {', '.join(found['different'])}"
    return Result(
        "a training killed and resumed",
        f"{found['kills_survived']} kills, {found['kills_in_a_save']} while saving: {bits} as without, at most "
        f"{found['lost_steps_max']} steps done again",
        fine,
    )
