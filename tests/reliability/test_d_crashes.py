"""Crash and resume: a run that is killed anywhere goes on to the same bits, and damage is never trained on."""

import random
import shutil
import zlib
from pathlib import Path

import pytest
from faults_of_files import damaged
from tiny import tiny_loader, tiny_trainer

from pytorch_dl.doctor.kills import SAVE_EVERY, compare
from pytorch_dl.errors import CheckpointError
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.trainer import OptimizedTrainer


def make(folder: Path) -> OptimizedTrainer:
    settings = {"max_steps": 6, "save_every": 2, "ema_decay": 0.9, "keep_checkpoints": 3}
    return tiny_trainer(folder, settings=settings, train_dataloader=tiny_loader(12, packed=True, max_tokens=20))


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


def test_d6_a_damaged_newest_checkpoint(case, tmp_path):
    """By a flipped bit, a cut, an emptied or a missing file: the one before is used, and never the damaged one."""
    trainer = make(tmp_path / "run")
    trainer.train()
    whole = trainer.checkpoint_dir
    newest, before = ckpt.checkpoints(whole)[:2]
    times, rng = case.size(60, 1000), random.Random(6)
    again = make(tmp_path / "again")
    for number in range(times):
        target = again.checkpoint_dir
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(whole, target)
        what = damaged(target / newest.name, rng)
        assert again.resume(), what
        assert again.state.step == int(before.name.removeprefix("step-")), f"{number}: {what}"
    case.survived(times, injected="a bit, a cut, an empty or missing file in the newest checkpoint", lost="nothing")


def test_d6_none_whole(tmp_path):
    trainer = make(tmp_path / "run")
    trainer.train()
    rng = random.Random(zlib.crc32(b"none"))
    for path in ckpt.checkpoints(trainer.checkpoint_dir):
        damaged(path, rng)
    with pytest.raises(CheckpointError, match="none of the 3 checkpoints is whole"):
        make(tmp_path / "run").resume()
