"""Recompute steps of a run from the checkpoint before them, and compare what comes out, bit by bit, with what it kept.

It tells whether this machine, with these versions, makes the bits that the run was trained with. The run is only read.
"""

import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pytorch_dl.building import build_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import CheckpointError, ConfigError, Interrupted
from pytorch_dl.files import damage, sha256
from pytorch_dl.prepare import prepare, recorded_texts
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.diagnosis import Failure, kept
from pytorch_dl.training.metrics import METRICS, holds
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.trainer import create_trainer
from pytorch_dl.validating import decoder

Say = Callable[[str], None]


class Replayed(NamedTuple):
    """What came of recomputing (start, step]: of the record's lines and the checkpoint's files, which differ."""

    start: int
    step: int
    lines: int
    files: int
    different: list[str]


def replay(path: Path, step: int | None, *, say: Say) -> Replayed:
    """Recompute from the newest checkpoint before `step` up to it; None is the newest checkpoint that has one before.

    Lines of metrics.jsonl are compared, and the tensors of a checkpoint of `step`, where there is one. Raises
    ConfigError where the run keeps nothing to begin at or to compare with.
    """
    folder = RunFolder(path)
    config = folder.read_config()
    steps = _kept_steps(folder)
    if step is None and len(steps) < 2:
        raise ConfigError(
            f"the run keeps {len(steps)} whole checkpoints, and two are needed: to begin at and to compare with",
            where=str(path),
            fix="give a step, or train with training.keep_checkpoints of 2 or more",
        )
    step = step or max(steps)
    start = max((one for one in steps if one < step), default=None)
    if start is None:
        raise ConfigError(
            f"no whole checkpoint lies before step {step}; there are {', '.join(map(str, sorted(steps))) or 'none'}",
            where=str(folder.checkpoints),
            fix="give a later step",
        )
    record = Path(config.logging.log_dir or path) / METRICS
    with tempfile.TemporaryDirectory(prefix="pytorch-dl-replay-") as scratch:
        again = RunFolder(Path(scratch))
        position = _begin(folder, again, start, record)
        _recompute(folder, again, config, step, say=say)
        lines, expected = (file.read_bytes()[position:].splitlines() for file in (again.path / METRICS, record))
        different = [_name_of(new) for new, old in itertools.zip_longest(lines, expected[: len(lines)]) if new != old]
        files = sorted((folder.checkpoints / ckpt.name_of(step)).glob("*.safetensors")) if step in steps else []
        for file in files:
            if sha256(file) != sha256(again.checkpoints / file.parent.name / file.name):
                different.append(f"{file.parent.name}/{file.name}")
    if not lines and not files:
        raise ConfigError(
            f"the run keeps nothing of the steps {start + 1} to {step} to compare with",
            where=str(path),
            fix="give a later step",
        )
    return Replayed(start, step, len(lines), len(files), different)


class ReplayedFailure(NamedTuple):
    """What a step that ended the run was found to fail in, what it fails in now, and the pairs that it shows on."""

    before: Failure
    now: Failure | None
    pairs: list[tuple[int, str, str]]


def replay_failure(path: Path) -> ReplayedFailure:
    """Compute the batch again that ended the run by numbers that are not finite, from the weights that it met."""
    folder = RunFolder(path)
    config, tokenizers = folder.read_config(), TokenizerPair.load(folder.tokenizer)
    trainer = create_trainer(model=build_model(config, tokenizers), train_dataloader=(), config=config, run_dir=path)
    found = kept(folder.checkpoints, trainer.model)
    if found is None:
        raise ConfigError("no step of the run left numbers that are not finite", where=str(folder.checkpoints))
    before, batch = found
    now = trainer.diagnose({before.slot: batch}, step=before.step)
    return ReplayedFailure(before, now, list(_texts(batch, before.pairs, tokenizers)))


def _texts(batch: Batch, pairs: list[int], tokenizers: TokenizerPair) -> Iterator[tuple[int, str, str]]:
    """The source and target of pairs of a batch."""
    places = batch.token_pairs(batch.src_segments), batch.token_pairs(batch.tgt_segments)
    for pair in pairs:
        src = batch.src[(places[0] == pair) & (batch.src_segments > 0)].tolist()
        tgt = batch.labels[(places[1] == pair) & (batch.tgt_segments > 0)].tolist()
        yield pair, tokenizers.src.decode(src), tokenizers.tgt.decode(tgt)


def changed_environment(path: Path) -> list[str]:
    """What of versions and machine is not as when the run began: the likeliest reasons for other bits."""
    folder = RunFolder(path)
    changed = folder.changed_environment()
    if folder.read_config().system.shard:
        changed.append("system.shard is on: a model that was divided among processes is the same but for rounding")
    return changed


def _name_of(line: bytes) -> str:
    values = json.loads(line)
    return f"{METRICS}: {values.get('kind', 'line')} of step {values.get('step')}"


def _kept_steps(folder: RunFolder) -> set[int]:
    whole = (path for path in ckpt.checkpoints(folder.checkpoints) if damage(path) is None)
    return {ckpt.read_train_state(path).step for path in whole}


def _begin(folder: RunFolder, again: RunFolder, start: int, record: Path) -> int:
    """Copy a checkpoint, the best one so far, and the record up to it; returns the bytes of the record."""
    first = folder.checkpoints / ckpt.name_of(start)
    state = ckpt.read_train_state(first)
    for source in {first, folder.checkpoints / ckpt.name_of(state.best_step)}:
        if source.exists():
            shutil.copytree(source, again.checkpoints / source.name)
    position = state.metrics_position
    if not record.exists() or not holds(record, position, state.metrics_sha256):
        raise CheckpointError(
            f"is not as it was at the checkpoint of step {start}", where=str(record), fix="restore it from a backup"
        )
    with open(record, "rb") as file:
        (again.path / METRICS).write_bytes(file.read(position))
    return position


def _stores(folder: RunFolder, again: RunFolder, config: Config) -> Path:
    """A cache with links to the run's token stores: one that is damaged is built anew in place of its link."""
    again.cache.mkdir()
    for store in Path(config.data.cache_dir or folder.cache).glob("*"):
        if store.is_dir():
            (again.cache / store.name).symlink_to(store.resolve())
    return again.cache


def _recompute(folder: RunFolder, again: RunFolder, config: Config, step: int, *, say: Say) -> None:
    if recorded_texts(folder) is None:
        what, fix = "is missing, by which the run tells its text", "restore it from a backup"
        raise CheckpointError(what, where=str(folder.data), fix=fix)
    data = prepare(folder, config, say, cache=_stores(folder, again, config))
    config.training.time_limit = None  # this machine may be slower
    config.logging.log_dir, config.logging.tensorboard, config.logging.wandb = None, False, False
    trainer = create_trainer(
        model=build_model(config, data.tokenizers),
        train_dataloader=data.train_dataloader(),
        val_dataloader=data.val_dataloader(),
        config=config,
        run_dir=again.path,
        decode=decoder(data, config.training) if config.training.eval_decode else None,
    )
    if not trainer.resume():
        raise CheckpointError("the checkpoint cannot be read", where=str(folder.checkpoints))
    try:
        trainer.train(stop_after=step)
    except Interrupted:
        if trainer.state.step < step:
            raise
        return
    if trainer.state.step < step:
        raise ConfigError(f"training ends at step {trainer.state.step}, before step {step}", where=str(folder.path))
