"""Trainings of a second by the command line, in one process or several, and what they leave."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from processes import end
from tiny_runs import TINY, write_tsv

from pytorch_dl.doctor.kills import checksums, last_step
from pytorch_dl.training.run_folder import RunFolder

SETTINGS = [
    *TINY,
    "model.dropout=0.1",
    "data.max_tokens_per_batch=120",
    "training.gradient_accumulation_steps=4",
    "training.max_steps=120",
    "training.save_every=4",
    "training.eval_every=25",
    "training.ema_decay=0.9",
    "training.eval_decode=4",
    "training.label_smoothing=0.1",
]


def settings_file(folder: Path) -> Path:
    """A file that names 75 pairs, 13 of them to validate on."""
    text = write_tsv(folder / "text.tsv", 75)
    path = folder / "config.yaml"
    path.write_text(f"data:\n  train_data_path: {text}\n  val_split: 13\n")
    return path


def train(config: Path, run: Path, *settings: str) -> list[str]:
    return ["-m", "pytorch_dl", "train", str(config), "--out", str(run), *SETTINGS, *settings]


def resume(run: Path) -> list[str]:
    return ["-m", "pytorch_dl", "resume", str(run)]


def outcome(run: Path) -> dict[str, str]:
    """Checksums of what a training leaves that has come to its end."""
    assert RunFolder(run).is_finished
    return checksums(run)


def stopped(processes: "Sequence[subprocess.Popen[str]]", run: Path, *, after: int) -> None:
    """Ask the last of the processes to stop after a step; all do, after the same one."""
    wait_for_step(run, after)
    processes[-1].send_signal(signal.SIGTERM)
    ended = end(processes)
    assert [one.code for one in ended] == [75] * len(processes), ended


def wait_for_step(run: Path, step: int) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if last_step(run) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the run did not come to step {step}")
