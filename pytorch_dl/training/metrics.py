"""The records that training writes: metrics.jsonl, timing.jsonl, samples.jsonl.

metrics.jsonl is the record: a pure function of data, configuration and seed, cut back after a kill to where it was at
the checkpoint.
What depends on the clock or the machine (tokens/s, memory) lies beside it in timing.jsonl, what each validation
translated in samples.jsonl. Neither is cut back: of several lines of a step, the last one counts.
"""

import hashlib
import itertools
import json
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.files import disk_errors, make_folder, sync_folder

METRICS, TIMING, SAMPLES, WANDB_ID = "metrics.jsonl", "timing.jsonl", "samples.jsonl", "wandb_id"
Record = Mapping[str, Any]


def set_record_aside(folder: Path) -> Path | None:
    """Rename the records of an earlier training, which a new one would empty or go on with; returns the new path."""
    record = folder / METRICS
    if not record.exists() or not record.stat().st_size:
        return None
    number = next(n for n in itertools.count(1) if not (folder / f"metrics.{n}.jsonl").exists())
    for name in (TIMING, SAMPLES, METRICS):
        if (folder / name).exists():
            (folder / name).rename(folder / f"{Path(name).stem}.{number}.jsonl")
    (folder / WANDB_ID).unlink(missing_ok=True)
    return folder / f"metrics.{number}.jsonl"


def holds(record: Path, position: int, sha256: str) -> bool:
    """Whether a record is that of a checkpoint, up to its position there: another training may have put one there."""
    found = record.read_bytes()[:position] if record.exists() else b""
    return not position or (len(found) == position and hashlib.sha256(found).hexdigest() == sha256)


class MetricsLog:
    """Writes each record to its file at once; goes on behind the first `position` bytes."""

    def __init__(self, folder: Path, *, position: int) -> None:
        self._metrics, self._timing, self._samples = folder / METRICS, folder / TIMING, folder / SAMPLES
        with disk_errors(self._metrics):
            make_folder(folder)
            self._metrics.touch()
            sync_folder(folder)
            assert position <= self.position, "it would be filled with zeros"
            os.truncate(self._metrics, position)
        self._sum = hashlib.sha256(self._metrics.read_bytes())

    @property
    def position(self) -> int:
        """Bytes of the record so far: a checkpoint remembers them."""
        return self._metrics.stat().st_size

    @property
    def sha256(self) -> str:
        """Of those bytes."""
        return self._sum.hexdigest()

    def write(self, step: int, kind: str, values: Record) -> None:
        """Record what follows from data, configuration and seed alone."""
        self._sum.update(_append(self._metrics, {"step": step, "kind": kind, **values}))

    def write_timing(self, step: int, values: Record) -> None:
        """Record what depends on the machine."""
        _append(self._timing, {"step": step, **values})

    def write_samples(self, step: int, samples: Sequence[Record]) -> None:
        """Record what a validation translated."""
        _append(self._samples, {"step": step, "samples": samples})

    def sync(self) -> None:
        """Flush the record to the disk, so that it is no older than the checkpoint that follows."""
        with disk_errors(self._metrics), open(self._metrics, "rb") as file:
            os.fsync(file.fileno())


def memory_mb() -> dict[str, float]:
    """Peak memory: of the process, and of the GPU where one is used."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    peak = {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        peak["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak


def _append(path: Path, record: Record) -> bytes:
    line = json.dumps(record, ensure_ascii=False) + "\n"
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(line)
    return line.encode()
