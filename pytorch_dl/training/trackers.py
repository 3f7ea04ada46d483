"""The trackers that a configuration can ask for: TensorBoard, and Weights & Biases."""

import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any

from PIL.Image import Image

from pytorch_dl.config.model_config import LoggingConfig
from pytorch_dl.errors import ConfigError
from pytorch_dl.files import write_file
from pytorch_dl.training.metrics import WANDB_ID
from pytorch_dl.training.tracking import Tracker, Value

Settings = Mapping[str, Any]


def require_packages(config: LoggingConfig) -> None:
    """Refuse, with the command that installs it, a tracker that is asked for and whose package is not here."""
    if config.wandb and not find_spec("wandb"):
        raise ConfigError("logging.wandb needs the package wandb", fix="pip install 'pytorch-dl[wandb]'")
    if config.tensorboard and not find_spec("tensorboard"):
        fix = "pip install tensorboard, or set logging.tensorboard to false"
        raise ConfigError("logging.tensorboard needs the package tensorboard", fix=fix)


def make_trackers(config: LoggingConfig, folder: Path) -> list[Tracker]:
    """Those that the configuration asks for; what they write goes into `folder`."""
    require_packages(config)
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoard(folder / "tensorboard"))
    if config.wandb:
        trackers.append(WandB(config.wandb_project, folder))
    return trackers


class TensorBoard:
    """TensorBoard event files."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder, self._event, self._hparams, self._records = folder, Event, hparams_pb, RecordWriter
        self._start = SessionLog(status=SessionLog.START)

    def begin(self, settings: Settings, *, first_step: int) -> None:
        """Begin another file; TensorBoard hides what lies at this step or later in the earlier ones."""
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{socket.gethostname()}.{os.getpid()}.{rest:09d}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = FileIO(self._folder / name, "w")
        self._writer = self._records(self._file)
        self._write(file_version="brain.Event:2")
        self._write(first_step, session_log=self._start)
        self._write(first_step, summary=self._hparams({name: _plain(value) for name, value in settings.items()}))

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Add a point to each curve, and each text and picture."""
        self._write(step, summary={"value": [_summary(name, value) for name, value in values.items()]})

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, step: int = 0, **what: Any) -> None:
        try:
            self._writer.write(self._event(wall_time=time.time(), step=step, **what).SerializeToString())
        except OSError:
            self._file.close()
            raise


def _summary(name: str, value: Value) -> dict[str, Any]:
    """One value in TensorBoard's terms."""
    if isinstance(value, str):
        plugin = {"plugin_data": {"plugin_name": "text"}}
        tensor = {"dtype": "DT_STRING", "string_val": [value.encode()], "tensor_shape": {"dim": [{"size": 1}]}}
        return {"tag": f"{name}/text_summary", "metadata": plugin, "tensor": tensor}
    if isinstance(value, Image):
        value.save(png := BytesIO(), "PNG")
        size = {"width": value.width, "height": value.height, "colorspace": len(value.getbands())}
        return {"tag": name, "image": {**size, "encoded_image_string": png.getvalue()}}
    return {"tag": name, "simple_value": value}


def _plain(setting: object) -> bool | int | float | str:
    return setting if isinstance(setting, bool | int | float | str) else json.dumps(setting)


class WandB:
    """A Weights & Biases run (extra: wandb)."""

    def __init__(self, project: str, folder: Path) -> None:
        import wandb

        self._wandb, self._project, self._folder = wandb, project, folder

    def begin(self, settings: Settings, *, first_step: int) -> None:
        """Begin the run, or go on with it: steps that it has already are then refused there, and equal."""
        self._run = self._wandb.init(
            project=self._project,
            dir=str(self._folder),
            config=dict(settings),
            id=_wandb_id(self._folder),
            resume="allow",
            settings={"console": "off"},  # which would change how this process writes to its terminal
        )

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Add a point to each curve, and each text and picture."""
        shown = {n: self._wandb.Image(value) if isinstance(value, Image) else value for n, value in values.items()}
        self._run.log(shown, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def _wandb_id(folder: Path) -> str:
    """The name under which a resumed training goes on with its curves, kept beside them."""
    path = folder / WANDB_ID
    if not path.exists():
        write_file(path, secrets.token_hex(8))
    return path.read_text().strip()
