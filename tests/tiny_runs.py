"""Texts and settings with which a run takes a second, and the command line called in this process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pytorch_dl.entry import execute

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "model.d_model=16",
    "model.n_heads=2",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=1",
    "model.max_seq_len=40",
    "data.tokenizer_name=char",
    "data.vocab_size=300",
    "data.max_length=40",
    "data.max_tokens_per_batch=300",
    "data.num_workers=0",
    "training.max_steps=20",
    "training.eval_every=10",
    "training.mixed_precision=false",
    "scheduler.warmup=5",
    "logging.tensorboard=false",
    "logging.log_every=1",
    "system.num_threads=1",
]
WORDS = ("ab", "cd", "ef", "gh", "ij", "kl", "mn")


class Result(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("pytorch-dl: ")]


def pairs(count: int, *, first: int = 0) -> list[tuple[str, str]]:
    """Different sources of a few words, each with its words reversed."""
    size = len(WORDS)
    found = []
    for number in range(first, first + count):
        words = [WORDS[number % size], WORDS[number // size % size], WORDS[number // size**2 % size]]
        found.append((" ".join(words), " ".join(reversed(words))))
    return found


def write_tsv(path: Path, count: int = 60, *, first: int = 0) -> Path:
    """A file of tab-separated pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs(count, first=first)))
    return path


def copied_run(run: Path, folder: Path) -> Path:
    """The finished run and its text once more, as `done` and `text.tsv` in a folder, to spoil."""
    text = folder / "text.tsv"
    shutil.copytree(run, folder / "done")
    shutil.copy(run.parent / "text.tsv", text)
    config = folder / "done" / "config.yaml"
    config.write_text(config.read_text().replace(str(run.parent / "text.tsv"), str(text)))
    return folder / "done"


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Run a command in this process."""
    capsys.readouterr()
    code = execute([str(argument) for argument in arguments])
    return Result(code, *capsys.readouterr())


def command(*arguments: object) -> list[str]:
    """The same command for a process of its own."""
    return [sys.executable, "-m", "pytorch_dl", *map(str, arguments)]


def environment() -> dict[str, str]:
    """In which such a process finds the package of this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def child(*arguments: object, cwd: Path, stdin: str = "") -> Result:
    """Run a command in a process of its own."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), input=stdin, capture_output=True, text=True, timeout=120
    )
    return Result(done.returncode, done.stdout, done.stderr)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of each file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def records(run: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
