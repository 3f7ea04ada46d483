"""Tiny trainings that are stopped, killed and resumed, and what they leave."""

import functools
import hashlib
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.trainer import OptimizedTrainer

EPOCH = 4  # batches, where they are padded; 3 or 4 where they are packed


class Crash(Exception):
    """Stands for a process that is killed between two steps."""


def make(
    folder: Path, *, packed: bool = False, workers: int = 0, pairs: int | None = None, **settings: Any
) -> OptimizedTrainer:
    given = {"num_epochs": 3, "label_smoothing": 0.1, **settings}
    pairs = pairs or (9 if packed else 8)
    return tiny_trainer(
        folder,
        settings=given,
        train_dataloader=tiny_loader(pairs, packed=packed, workers=workers, max_tokens=20),
        val_dataloader=tiny_loader(4, seed=2, batch_size=2),
        schedule=lambda step, total: step / total,
    )


def result(trainer: OptimizedTrainer) -> dict[str, str]:
    """Checksums of what training leaves: the last checkpoint without its times, the record, the weights for use."""
    assert trainer.checkpoint_dir is not None
    last = ckpt.checkpoints(trainer.checkpoint_dir)[0]
    assert damage(last) is None
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in last.glob("*.safetensors")}
    sums["state"] = repr({**ckpt.read_state(last), "seconds": 0})
    sums["metrics"] = (trainer.checkpoint_dir.parent / METRICS).read_text()
    weights = {name: hashlib.sha256(tensor.numpy()).hexdigest() for name, tensor in trainer.model.state_dict().items()}
    return {**sums, "weights": repr(weights)}


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """The names of what is not the same in two results."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


@functools.cache
def straight(**settings: Any) -> dict[str, str]:
    """What training in one go leaves."""
    with tempfile.TemporaryDirectory() as folder:
        return trained(make(Path(folder), **settings))


def trained(trainer: OptimizedTrainer) -> dict[str, str]:
    trainer.train()
    return result(trainer)


def resumed(trainer: OptimizedTrainer) -> OptimizedTrainer:
    trainer.model.load_state_dict(tiny_model(seed=99).state_dict())  # whatever was not restored would show
    torch.manual_seed(99)
    assert trainer.resume()
    return trainer


def placed(checkpoint: Path, folder: Path) -> Path:
    """A run that has this checkpoint and no other; returns its folder."""
    shutil.copytree(checkpoint, folder / "checkpoints" / checkpoint.name)
    shutil.copy(checkpoint.parent.parent / METRICS, folder / METRICS)
    return folder


def crashing(trainer: OptimizedTrainer, *, after: int) -> OptimizedTrainer:
    """The trainer, to be killed when it has made so many steps."""
    step, left = trainer.begin_step, iter(range(after))

    def begin_step(batches: list[Batch], *, total_steps: int) -> Any:
        if next(left, None) is None:
            raise Crash
        return step(batches, total_steps=total_steps)

    trainer.begin_step = begin_step  # type: ignore[method-assign]
    return trainer


def signalled(trainer: OptimizedTrainer, *, at: int, number: int = signal.SIGTERM) -> OptimizedTrainer:
    """The trainer, to which a signal comes while it makes a step."""
    step = trainer.begin_step

    def begin_step(batches: list[Batch], *, total_steps: int) -> Any:
        if trainer.state.step + 1 == at:
            os.kill(os.getpid(), number)
        return step(batches, total_steps=total_steps)

    trainer.begin_step = begin_step  # type: ignore[method-assign]
    return trainer
