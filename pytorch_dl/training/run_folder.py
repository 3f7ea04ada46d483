"""The run folder: everything that a run leaves, and all that is needed to resume, translate or evaluate.

config.yaml        the resolved configuration         environment.json  versions and machine
begun.yaml         as it was when training began       data.json         fingerprints of the texts
tokenizer/         of both sides
checkpoints/       the newest ones and the best        cache/            prepared token stores
metrics.jsonl      the record; timing.jsonl, samples.jsonl, tensorboard/ beside it
model/             the weights for use, written at the end of training
weights_from/      the model whose weights it began with, if that was asked for; weights_from.json: what was taken
profile/           where the time and memory of some steps went, if that was asked for
evaluation.json    how the run is evaluated at its end; without it, it is not
report.json        scores of the evaluation, report.md for people; report.html, all of the run on a page
"""

import os
import platform
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.config import Config, load_config, to_yaml
from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.files import MANIFEST, RunLock, damage, read_json, write_file, write_json
from pytorch_dl.plain_files import refuse_strange, strange_entries
from pytorch_dl.training.source import source


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def begun(self) -> Path:
        """The configuration as it was when training began, or went on with an accepted change."""
        return self.path / "begun.yaml"

    @property
    def tokenizer(self) -> Path:
        """The tokenizers of both sides."""
        return self.path / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        """What training resumes from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The weights for use."""
        return self.path / "model"

    @property
    def weights_from(self) -> Path:
        """The model whose weights training begins with, where it does not begin with random ones."""
        return self.path / "weights_from"

    @property
    def weights_taken(self) -> Path:
        """Where that model is from, and what of its weights was taken."""
        return self.path / "weights_from.json"

    @property
    def cache(self) -> Path:
        """Prepared token stores."""
        return self.path / "cache"

    @property
    def profile(self) -> Path:
        """Where the time and memory of some steps went."""
        return self.path / "profile"

    @property
    def data(self) -> Path:
        """Fingerprints of the texts."""
        return self.path / "data.json"

    @property
    def environment(self) -> Path:
        """Versions, machine and source."""
        return self.path / "environment.json"

    @property
    def evaluation(self) -> Path:
        """How the run is evaluated at its end."""
        return self.path / "evaluation.json"

    @property
    def report(self) -> Path:
        """Scores of the evaluation."""
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        """All of the run on a page."""
        return self.path / "report.html"

    @property
    def is_finished(self) -> bool:
        """Whether training has ended and left its weights."""
        return damage(self.model) is None

    def weights_fingerprint(self) -> str:
        """What changes when the weights that `load` takes do."""
        if self.is_finished:
            return (self.model / MANIFEST).read_text()
        return " ".join(sorted(path.name for path in self.checkpoints.glob("*")))

    def refuse_another(self) -> None:
        """Raise when the folder holds a run already, or what would have us write elsewhere."""
        self._refuse_strange()
        if self.config.exists():
            raise ConfigError(
                "the folder already holds a run",
                where=str(self.path),
                fix=f"go on with `pytorch-dl resume {self.path}`, or choose another --out",
            )

    def create(self, config: Config, *, beam_size: int | None, put_weights: Callable[[], None] | None = None) -> None:
        """Begin a run in a folder that holds none, to be evaluated with `beam_size` at its end, or not at all.

        `put_weights` puts a model there whose weights it begins with.
        """
        with RunLock(self.path):  # of two that begin at one moment, the other is told so
            self.refuse_another()
            write_json(self.environment, {**environment(), **source()})
            if beam_size:
                write_json(self.evaluation, {"beam_size": beam_size})
            if put_weights:
                put_weights()
            else:
                self.weights_taken.unlink(missing_ok=True)  # of a beginning that was killed
            write_file(self.config, to_yaml(config))

    def settle(self, config: Config) -> None:
        """Write down what was found in place of what the configuration left open, before training begins."""
        write_file(self.config, to_yaml(config))

    def note_begun(self, config: Config) -> None:
        """Remember with what configuration training goes on."""
        text = to_yaml(config)
        if not self.begun.exists() or self.begun.read_text("utf-8") != text:
            write_file(self.begun, text)

    def read_begun(self) -> Config | None:
        """The configuration that training has gone on with so far; None where that was not remembered."""
        return _read(self.begun) if self.begun.exists() else None

    def read_beam_size(self) -> int | None:
        """Beams of the evaluation at the end of the run; None: there is none."""
        try:
            beam_size = read_json(self.evaluation)["beam_size"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            beam_size = None
        if not isinstance(beam_size, int) or beam_size < 1:
            raise CheckpointError(
                "expected a beam_size of at least 1",
                where=str(self.evaluation),
                fix='write {"beam_size": 5}, or delete the file to leave the evaluation out',
            )
        return beam_size

    def read_report(self) -> dict[str, Any]:
        """The scores of the evaluation; empty where there are none."""
        try:
            found = read_json(self.report)
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def read_config(self) -> Config:
        """The configuration that the run was begun with."""
        if not self.path.is_dir():
            raise CheckpointError(
                "no such run folder", where=str(self.path), fix="give the folder of a run (its --out)"
            )
        self._refuse_strange()
        if not self.config.exists():
            raise CheckpointError(
                "is not a run folder: it has no config.yaml", where=str(self.path), fix="give the --out of a run"
            )
        return _read(self.config)

    def changed_environment(self, names: Collection[str] | None = None) -> list[str]:
        """What of versions and machine, or of these names of them, is not as it was when the run began."""
        try:
            before = dict(read_json(self.environment))
        except (OSError, ValueError, TypeError, RecursionError):
            return ["what it was begun with is not known"]
        now = {name: value for name, value in environment().items() if name in before and name in (names or before)}
        return [f"{name} is {value}, it was {before[name]}" for name, value in now.items() if value != before[name]]

    def _refuse_strange(self) -> None:
        """Raise where a link, pipe or device lies in the folder: it would have us read or write something elsewhere."""
        inner = (self.checkpoints, self.model, self.tokenizer, self.cache, self.weights_from)
        refuse_strange(strange_entries(self.path, deep=False))
        for part in inner:
            refuse_strange(strange_entries(part, deep=True))


def _read(path: Path) -> Config:
    try:
        return load_config(path)
    except ConfigError as error:
        raise CheckpointError(error.what, where=error.where, fix=f"restore {path.name} of the run") from None


def environment() -> dict[str, str | int]:
    """Versions and machine, for the record."""
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_threads": torch.get_num_threads(),
        "cpus": os.cpu_count() or 0,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _cpu() -> str:
    """Its model, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"
