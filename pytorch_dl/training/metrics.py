"""What training writes down: metrics.jsonl, timing.jsonl and the trackers.

metrics.jsonl is the record: a pure function of data, configuration and seed, cut back after a kill to where it was at
the checkpoint.
What depends on the clock or the machine (tokens/s, memory) lies beside it in timing.jsonl.
"""

import itertools
import json
import os
import resource
import secrets
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.files import write_file

METRICS, TIMING, WANDB_ID = "metrics.jsonl", "timing.jsonl", "wandb_id"
Record = Mapping[str, Any]


class Tracker(Protocol):
    """Where curves go besides the files. It may fail; training goes on."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def text(self, step: int, name: str, text: str) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """TensorBoard event files."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text sample."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()


class WandB:
    """A Weights & Biases run (extra: wandb)."""

    def __init__(self, project: str, folder: Path, settings: Record) -> None:
        try:
            import wandb
        except ImportError:
            raise ImportError("logging.wandb needs the package wandb: pip install 'pytorch-dl[wandb]'") from None
        self._run = wandb.init(
            project=project, dir=str(folder), config=dict(settings), id=_wandb_id(folder), resume="allow"
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        self._run.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Keep the newest text sample."""
        self._run.summary[name] = text

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def _wandb_id(folder: Path) -> str:
    """The name under which a resumed training goes on with its curves, kept beside them."""
    path = folder / WANDB_ID
    if not path.exists():
        write_file(path, secrets.token_hex(8))
    return path.read_text().strip()


def make_trackers(config: LoggingConfig, folder: Path, *, first_step: int, settings: Record) -> list[Tracker]:
    """Open the trackers that the configuration asks for; one that cannot begin is left out with a warning."""
    wanted: list[Callable[[], Tracker]] = []
    if config.tensorboard:
        wanted.append(lambda: TensorBoard(folder / "tensorboard", first_step=first_step))
    if config.wandb:
        wanted.append(lambda: WandB(config.wandb_project, folder, settings))
    trackers: list[Tracker] = []
    for begin in wanted:
        try:
            trackers.append(begin())
        except ImportError:
            raise
        except Exception as error:
            warnings.warn(f"a tracker cannot begin and is left out: {error}", stacklevel=2)
    return trackers


def set_record_aside(folder: Path) -> Path | None:
    """Rename the records of an earlier training, which a new one would empty or go on with; returns the new path."""
    record = folder / METRICS
    if not record.exists() or not record.stat().st_size:
        return None
    number = next(n for n in itertools.count(1) if not (folder / f"metrics.{n}.jsonl").exists())
    for name in (TIMING, METRICS):
        if (folder / name).exists():
            (folder / name).rename(folder / f"{Path(name).stem}.{number}.jsonl")
    (folder / WANDB_ID).unlink(missing_ok=True)
    return folder / f"metrics.{number}.jsonl"


class MetricsLog:
    """Writes each record to its file at once, and passes numbers on to the trackers."""

    def __init__(self, folder: Path, trackers: list[Tracker], *, position: int) -> None:
        self.trackers = trackers
        self._metrics, self._timing = folder / METRICS, folder / TIMING
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics.touch()
        os.truncate(self._metrics, min(position, self.position))  # never longer: that would fill it with zeros

    @property
    def position(self) -> int:
        """Bytes of the record so far: a checkpoint remembers them."""
        return self._metrics.stat().st_size

    def write(self, step: int, kind: str, values: Record) -> None:
        """Record what follows from data, configuration and seed alone."""
        _append(self._metrics, {"step": step, "kind": kind, **values})
        self._track(step, kind, values)

    def write_timing(self, step: int, values: Record) -> None:
        """Record what depends on the machine."""
        _append(self._timing, {"step": step, **values})
        self._track(step, "system", values)

    def text(self, step: int, name: str, text: str) -> None:
        """Pass a text sample to the trackers."""
        self._best_effort(lambda tracker: tracker.text(step, name, text))

    def sync(self) -> None:
        """Flush the record to the disk, so that it is no older than the checkpoint that follows."""
        with open(self._metrics, "rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the trackers."""
        self._best_effort(lambda tracker: tracker.close())

    def _track(self, step: int, kind: str, values: Record) -> None:
        numbers = {f"{kind}/{name}": float(v) for name, v in values.items() if isinstance(v, int | float)}
        self._best_effort(lambda tracker: tracker.log(step, numbers))

    def _best_effort(self, action: Callable[[Tracker], None]) -> None:
        """A tracker that fails is dropped with one warning."""
        for tracker in list(self.trackers):
            try:
                action(tracker)
            except Exception as error:
                self.trackers.remove(tracker)
                warnings.warn(f"{type(tracker).__name__} failed and is switched off: {error}", stacklevel=2)


def memory_mb() -> dict[str, float]:
    """Peak memory: of the process, and of the GPU where one is used."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    peak = {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        peak["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak


def _append(path: Path, record: Record) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
