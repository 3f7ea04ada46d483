"""Kill a training with SIGKILL again and again, resume it each time, and compare its end with an uninterrupted run.

Half of the kills are aimed into the writing of a checkpoint.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_dl.data import dates_file
from pytorch_dl.errors import ResourceError
from pytorch_dl.files import TEMPORARY
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS
from pytorch_dl.training.run_folder import RunFolder

SAVE_EVERY = 5
STEPS, STEPS_OF_A_KILL = 200, 4  # at least so many, and so many for each kill
LONGEST_LINES = 1 << 16  # bytes of the record, more than a line has
LIFE_SECONDS = 300.0  # a process that makes no progress for so long is stuck
TRAINING = {
    "save_every": SAVE_EVERY,
    "eval_every": 42,
    "eval_decode": 8,
    "label_smoothing": 0.1,
    "gradient_accumulation_steps": 2,
    "ema_decay": 0.99,
    "mixed_precision": False,
}
SETTINGS = {
    "model": {"d_model": 32, "n_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1, "dropout": 0.1},
    "data": {
        "train_data_path": str(dates_file("val")),
        "val_data_path": str(dates_file("test")),
        "tokenizer_name": "char",
        "vocab_size": 512,
        "max_tokens_per_batch": 512,
        "layout": "packed",
    },
    "scheduler": {"warmup": 20},
    "system": {"num_threads": 1, "device": "cpu"},
    "logging": {"log_every": 1, "tensorboard": False},
}


@dataclass
class Outcome:
    """What happened to the run that was killed."""

    kills: int = 0
    kills_in_a_save: int = 0
    lost_steps: list[int] = field(default_factory=list)


def compare(folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Train twice in `folder`, once with kills, and tell what was survived, lost and different in the end."""
    config, steps = folder / "config.json", max(STEPS, STEPS_OF_A_KILL * kills)
    config.write_text(json.dumps({**SETTINGS, "training": {**TRAINING, "max_steps": steps}}))
    straight, killed = folder / "straight", folder / "killed"
    finish(config, straight)
    began = time.monotonic()
    outcome = train_with_kills(config, killed, kills, rng, steps=steps)
    expected, found = checksums(straight), checksums(killed)
    return {
        "kills_survived": outcome.kills,
        "kills_in_a_save": outcome.kills_in_a_save,
        "steps": steps,
        "save_every": SAVE_EVERY,
        "lost_steps_max": max(outcome.lost_steps, default=0),
        "equal": found == expected,
        "different": [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)],
        "seconds": round(time.monotonic() - began, 1),
    }


@contextmanager
def started(config: Path, run: Path) -> "Iterator[subprocess.Popen[str]]":
    """Begin the run in a process of its own, or go on with it where it has begun; the process ends with the context."""
    begun = (run / "config.yaml").exists()
    command = ["resume", str(run)] if begun else ["train", str(config), "--out", str(run)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        [sys.executable, "-m", "pytorch_dl", *command], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(config: Path, run: Path) -> None:
    """Train to the end."""
    with started(config, run) as process:
        try:
            _, told = process.communicate(timeout=LIFE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            told = process.communicate()[1]
            raise ResourceError(f"a training did not end within {LIFE_SECONDS:g} seconds: {told}") from None
    if process.returncode:
        raise ResourceError(f"a training that was resumed ended with exit code {process.returncode}: {told}")


def train_with_kills(config: Path, run: Path, kills: int, rng: random.Random, *, steps: int) -> Outcome:
    """Every tenth kill comes at any moment from the start of a process, half of the others while it saves."""
    outcome = Outcome()
    for number in range(kills):
        aimed = number % 2 == 0
        done = last_step(run)
        share = max(1, (steps - done) // (kills - number + 1))  # of the steps that are left: some for each kill
        with started(config, run) as process:
            if number % 10 == 9:
                end = time.monotonic() + rng.uniform(0, 6)
                while time.monotonic() < end and last_step(run) < done + share:
                    time.sleep(0.005)
            else:
                goal = done + rng.randint(1, share)
                wait_for(process, run, step=goal, saving=aimed)
                time.sleep(rng.uniform(0, 0.004 if aimed else 0.05))
            outcome.kills_in_a_save += is_saving(run)
        if process.returncode != -signal.SIGKILL:
            raise ResourceError(f"kill {number + 1} came too late: exit code {process.returncode}")
        outcome.kills += 1
        outcome.lost_steps.append(last_step(run) - newest_checkpoint(run))
    finish(config, run)
    return outcome


def wait_for(process: "subprocess.Popen[str]", run: Path, *, step: int, saving: bool) -> None:
    """Return when the run has made a step, or writes its next checkpoint after it."""
    until = time.monotonic() + LIFE_SECONDS
    while process.poll() is None and time.monotonic() < until:
        if last_step(run) < step:
            time.sleep(0.005)
        elif saving and not is_saving(run):
            time.sleep(0.0003)
        else:
            return
    process.kill()
    raise ResourceError(f"a training did not come to step {step}: {process.communicate()[1]}")


def is_saving(run: Path) -> bool:
    """Whether a checkpoint is being written, or was when its process died."""
    return any(RunFolder(run).checkpoints.glob(f"{TEMPORARY}*"))


def last_step(run: Path) -> int:
    """Of the last whole line of the record."""
    try:
        with open(run / METRICS, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINES))  # a long record is asked for often
            whole = file.read().split(b"\n")[:-1]
        return int(json.loads(whole[-1])["step"]) if whole else 0
    except (FileNotFoundError, ValueError):
        return 0


def newest_checkpoint(run: Path) -> int:
    """The step that the run goes on from."""
    newest = ckpt.newest_valid(RunFolder(run).checkpoints, lambda _: None)
    return ckpt.read_train_state(newest).step if newest else 0


def checksums(run: Path) -> dict[str, str]:
    """SHA-256 of the weights for use, the record, and the tensors of the last checkpoint."""
    folder = RunFolder(run)
    last = folder.checkpoints / ckpt.name_of(newest_checkpoint(run))
    files = [folder.model / ckpt.MODEL, run / METRICS, *sorted(last.glob("*.safetensors"))]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
