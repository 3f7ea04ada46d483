"""Whether a run folder is whole: each part by itself, and the parts against each other. Nothing is changed."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pytorch_dl.building import build_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import damage
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.plain_files import strangeness
from pytorch_dl.prepare import recorded_texts
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS, holds
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.train_state import TrainState


class Finding(NamedTuple):
    """A part of the folder, by its path there, and what is wrong with it, if anything.

    Of what the configuration has put elsewhere, the setting and its place: it is not looked at.
    """

    part: str
    problem: str | None
    outside: Path | None = None


def verify(path: Path) -> Iterator[Finding]:
    """Look at configuration, tokenizers, notes of the run, checkpoints, weights for use, token stores and the record.

    Raises CheckpointError where there is no run, or its configuration or tokenizers cannot be read: all else is
    measured by them.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    yield Finding(folder.config.name, None)
    tokenizers = TokenizerPair.load(folder.tokenizer)
    yield Finding(folder.tokenizer.name, None)
    for note, read in (
        (folder.begun, folder.read_begun),
        (folder.data, lambda: recorded_texts(folder)),
        (folder.evaluation, folder.read_beam_size),
    ):
        if note.exists():
            yield Finding(note.name, _problem(read))
    config.system.device = "cpu"
    model = build_model(config, tokenizers)
    for checkpoint in ckpt.checkpoints(folder.checkpoints):
        problem = _problem(_read_checkpoint, checkpoint, model, config)
        yield Finding(str(checkpoint.relative_to(path)), problem)
    if folder.model.exists():
        yield Finding(folder.model.name, _problem(_read_weights, folder.model, model))
    if folder.weights_taken.exists():
        yield Finding(folder.weights_from.name, damage(folder.weights_from))
    for store in sorted(path for path in folder.cache.glob("*") if path.is_dir() and not path.name.startswith(".")):
        yield Finding(str(store.relative_to(path)), damage(store))
    outside = {"data.cache_dir": config.data.cache_dir, "logging.log_dir": config.logging.log_dir}
    if not outside["logging.log_dir"]:
        record, newest = path / METRICS, _newest_state(folder)
        if newest.metrics_position or record.exists():
            yield Finding(record.name, _record_problem(record, newest))
    yield from (Finding(name, None, Path(place)) for name, place in outside.items() if place)


def _problem(read: Callable[..., object], *given: object) -> str | None:
    try:
        read(*given)
    except CheckpointError as error:
        return error.what
    return None


def _read_checkpoint(path: Path, model: OptimizedTransformer, config: Config) -> None:
    _require_whole(path)
    state = ckpt.read_train_state(path)
    if state.best_step and not (path.parent / ckpt.name_of(state.best_step)).exists():
        raise CheckpointError(
            f"the best one so far, {ckpt.name_of(state.best_step)}, is missing: training ends with it"
        )
    ckpt.load_weights(model, ckpt.read_tensors(path / ckpt.MODEL), where=str(path))
    optimizer = make_optimizer(model, config.optimizer, learning_rate=config.training.learning_rate)
    ckpt.load_optimizer(model, optimizer, path / ckpt.OPTIMIZER)
    if (path / ckpt.AVERAGE).exists():
        ckpt.load_weights(model, ckpt.weights_of(path.parent, state.step), where=str(path))


def _read_weights(path: Path, model: OptimizedTransformer) -> None:
    _require_whole(path)
    ckpt.load_weights(model, ckpt.read_tensors(path / ckpt.MODEL), where=str(path))


def _require_whole(path: Path) -> None:
    if reason := damage(path):
        raise CheckpointError(reason)


def _newest_state(folder: RunFolder) -> TrainState:
    """That of the newest checkpoint that can be read; a fresh one where there is none."""
    for path in ckpt.checkpoints(folder.checkpoints):
        with contextlib.suppress(CheckpointError):
            return ckpt.read_train_state(path)
    return TrainState()


def _record_problem(path: Path, newest: TrainState) -> str | None:
    """Another one than at the newest checkpoint, a line that is no record, or one of an earlier step than before."""
    if strange := strangeness(path):
        return strange
    if (size := path.stat().st_size) < newest.metrics_position:
        return f"has {size:,} bytes, and had {newest.metrics_position:,} at the checkpoint of step {newest.step:,}"
    if not holds(path, newest.metrics_position, newest.metrics_sha256):
        return f"is not as it was at the checkpoint of step {newest.step:,}"
    before = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                step = int(json.loads(line)["step"])
            except (ValueError, TypeError, KeyError, RecursionError):
                return f"line {number} is no record"
            if step < before:
                return f"line {number} is of step {step}, after one of step {before}"
            before = step
    return None
