"""Which checkpoints stay in a folder, and which make room."""

import contextlib
import itertools
import shutil
from collections.abc import Collection
from pathlib import Path

from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import damage, remove_leftovers, sync_folder
from pytorch_dl.training.checkpoint import checkpoints, name_of, read_state, read_train_state


def set_newer_aside(path: Path) -> None:
    """Rename the damaged checkpoints newer than the one to go on from, so that rotation does not count them."""
    for newer in checkpoints(path.parent):
        if newer.name > path.name:
            aside = newer.with_name(f"damaged-{newer.name}")
            shutil.rmtree(aside, ignore_errors=True)
            newer.rename(aside)


def delete_newer(path: Path) -> None:
    """Delete the checkpoints newer than this one, such that a power cut does not bring them back."""
    for newer in checkpoints(path.parent):
        if newer.name > path.name:
            shutil.rmtree(newer)
    sync_folder(path.parent)


def rotate(folder: Path, *, keep: int, keep_validated: int, protected: Collection[int]) -> None:
    """Delete old checkpoints: the `keep` newest, the `keep_validated` newest of those, and steps `protected` stay.

    So does the best one that any of them names: where a newer one is damaged, training goes on from it, and ends there.
    """
    remove_leftovers(folder)
    kept = {
        *checkpoints(folder)[:keep],
        *_validated(folder)[:keep_validated],
        *(folder / name_of(step) for step in protected),
    }
    kept |= {folder / name_of(step) for path in kept if (step := _best_step(path)) is not None}
    for path in checkpoints(folder):
        if path not in kept:
            shutil.rmtree(path)


def validated(folder: Path, count: int) -> list[Path]:
    """The newest whole checkpoints that were written at a validation, not by a signal or in between."""
    return list(itertools.islice((path for path in _validated(folder) if damage(path) is None), count))


def _validated(folder: Path) -> list[Path]:
    """Those that say so, whole or not: reading all their tensors at each save would take long."""
    found: list[Path] = []
    for path in checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            state = read_state(path)
            if state.get("validated_step") == state.get("step"):
                found.append(path)
    return found


def _best_step(path: Path) -> int | None:
    with contextlib.suppress(CheckpointError):
        return read_train_state(path).best_step
    return None
