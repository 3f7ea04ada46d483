"""What training writes down: metrics.jsonl, timing.jsonl, samples.jsonl and the trackers.

metrics.jsonl is the record: a pure function of data, configuration and seed, cut back after a kill to where it was at
the checkpoint.
What depends on the clock or the machine (tokens/s, memory) lies beside it in timing.jsonl, what each validation
translated in samples.jsonl. Neither is cut back: of several lines of a step, the last one counts.
"""

import itertools
import json
import os
import resource
import secrets
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any, Protocol

import torch

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.files import disk_errors, make_folder, sync_folder, write_file

METRICS, TIMING, SAMPLES, WANDB_ID = "metrics.jsonl", "timing.jsonl", "samples.jsonl", "wandb_id"
CALLS_WAITING, CLOSING_SECONDS = 1000, 10.0  # for a tracker, until it is given up
Record = Mapping[str, Any]


class Tracker(Protocol):
    """Where curves go besides the files. It may fail; training goes on."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def text(self, step: int, name: str, text: str) -> None: ...
    def close(self) -> None: ...


Call = Callable[[Tracker], None]


class TensorBoard:
    """TensorBoard event files."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{rest:09d}"
        folder.mkdir(parents=True, exist_ok=True)
        self._file = FileIO(folder / name, "w")
        self._event, self._writer = Event, RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self._write(first_step, session_log=SessionLog(status=SessionLog.START))  # what lies behind it is out of date

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        self._write(step, summary={"value": [{"tag": name, "simple_value": value} for name, value in values.items()]})

    def text(self, step: int, name: str, text: str) -> None:
        """Add a text sample."""
        plugin = {"plugin_data": {"plugin_name": "text"}}
        tensor = {"dtype": "DT_STRING", "string_val": [text.encode()], "tensor_shape": {"dim": [{"size": 1}]}}
        self._write(step, summary={"value": [{"tag": f"{name}/text_summary", "metadata": plugin, "tensor": tensor}]})

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int = 0, **what: Any) -> None:
        try:
            self._writer.write(self._event(wall_time=time.time(), step=step, **what).SerializeToString())
        except OSError:
            self._file.close()
            raise


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
    for name in (TIMING, SAMPLES, METRICS):
        if (folder / name).exists():
            (folder / name).rename(folder / f"{Path(name).stem}.{number}.jsonl")
    (folder / WANDB_ID).unlink(missing_ok=True)
    return folder / f"metrics.{number}.jsonl"


class TrackerThread:
    """Calls a tracker from a thread of its own: one that is slow, or hangs, holds nobody up."""

    def __init__(self, tracker: Tracker) -> None:
        self.name = type(tracker).__name__
        self._calls: Queue[Call | None] = Queue(CALLS_WAITING)
        self._error: Exception | None = None
        self._thread = Thread(target=self._work, args=(tracker,), name=f"tracker {self.name}", daemon=True)
        self._thread.start()

    def call(self, call: Call | None) -> None:
        """Let the tracker be called, in turn, or with None let the thread end.

        Raises what an earlier call raised, and TimeoutError where none is answered any more.
        """
        if self._error:
            raise self._error
        try:
            self._calls.put_nowait(call)
        except Full:
            raise TimeoutError(f"it has not answered the last {CALLS_WAITING:,} calls") from None

    def close(self) -> None:
        """Wait until all calls are answered, but not for long."""
        self.call(lambda tracker: tracker.close())
        self.call(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"it has not answered for {CLOSING_SECONDS:g} seconds")
        if self._error:
            raise self._error

    def _work(self, tracker: Tracker) -> None:
        try:
            while call := self._calls.get():
                call(tracker)
        except Exception as error:
            self._error = error


class MetricsLog:
    """Writes each record to its file at once, and passes numbers on to the trackers."""

    def __init__(self, folder: Path, trackers: list[Tracker], *, position: int) -> None:
        self.trackers = [TrackerThread(tracker) for tracker in trackers]
        self._metrics, self._timing, self._samples = folder / METRICS, folder / TIMING, folder / SAMPLES
        with disk_errors(self._metrics):
            make_folder(folder)
            self._metrics.touch()
            sync_folder(folder)
            whole = position if position <= self.position else _end_of_last_line(self._metrics)
            os.truncate(self._metrics, whole)  # never longer: that would fill it with zeros

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

    def write_samples(self, step: int, samples: Sequence[Record]) -> None:
        """Record what a validation translated."""
        _append(self._samples, {"step": step, "samples": samples})

    def text(self, step: int, name: str, text: str) -> None:
        """Pass a text sample to the trackers."""
        self._best_effort(lambda thread: thread.call(lambda tracker: tracker.text(step, name, text)))

    def sync(self) -> None:
        """Flush the record to the disk, so that it is no older than the checkpoint that follows."""
        with disk_errors(self._metrics), open(self._metrics, "rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the trackers."""
        self._best_effort(TrackerThread.close)

    def _track(self, step: int, kind: str, values: Record) -> None:
        numbers = {f"{kind}/{name}": float(v) for name, v in values.items() if isinstance(v, int | float)}
        self._best_effort(lambda thread: thread.call(lambda tracker: tracker.log(step, numbers)))

    def _best_effort(self, action: Callable[[TrackerThread], None]) -> None:
        """A tracker that fails is dropped with one warning."""
        for thread in list(self.trackers):
            try:
                action(thread)
            except Exception as error:
                self.trackers.remove(thread)
                warnings.warn(f"{thread.name} failed and is switched off: {error}", stacklevel=2)


def memory_mb() -> dict[str, float]:
    """Peak memory: of the process, and of the GPU where one is used."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    peak = {"peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        peak["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 2**20
    return peak


def _end_of_last_line(path: Path) -> int:
    """What follows must not go on with a torn line."""
    return path.read_bytes().rfind(b"\n") + 1


def _append(path: Path, record: Record) -> None:
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
