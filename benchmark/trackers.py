"""What a tracker that hangs costs: a training with one, and one without, by turns; `python benchmark/trackers.py`.

The tracker never answers its first call, and is told something at every step all the same. Both write the same record.
Writes trackers.json.
"""

import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from benchmark.measuring.command_line import positive, say
from benchmark.measuring.machine import machine
from benchmark.race.workload import Workload, prepare
from benchmark.rungs.options import configured, parser
from pytorch_dl.config import Config
from pytorch_dl.files import write_json
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.tracking import CALLS_WAITING, Value
from pytorch_dl.training.trainer import create_trainer
from pytorch_dl.translator import build_model

NAMES = ("hanging", "none")
MOST_STEPS = CALLS_WAITING // 4  # of its calls; with more it would be given up before the end


class Hanging:
    """A tracker that waits in its first call until it is released."""

    def __init__(self) -> None:
        self.released, self.is_called = threading.Event(), False

    def begin(self, settings: Mapping[str, Any], *, first_step: int) -> None:
        """Never returns, as one that asks a network which does not answer."""
        self.is_called = True
        self.released.wait()

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Is not reached."""

    def close(self) -> None:
        """Is not reached."""


class Steps:
    """Watches the steps of a training: from the beginning of the first to the end of the last."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """Time one step."""
        started = time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - started)


def main() -> None:
    """Measure and write."""
    options = parser(__doc__, steps=240)
    options.add_argument("--repeats", type=positive, default=5, help="trainings of each")
    given = options.parse_args()
    if given.steps > MOST_STEPS:
        options.error(f"--steps {given.steps}: at most {MOST_STEPS}")
    keep_freed_memory()
    config, seconds = configured(given), {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(config, Path(scratch), pairs_per_step=given.pairs_per_step)
        for repeat in range(-1, given.repeats):
            for name in NAMES if repeat % 2 else reversed(NAMES):
                taken = step_seconds(config, work, Path(scratch) / f"{name}{repeat}", name, steps=given.steps)
                if repeat >= 0:
                    seconds[name].append(taken)
            say(f"repeat {repeat + 1} of {given.repeats}" if repeat >= 0 else "warm")
    ratio = statistics.median(a / b for a, b in zip(seconds["hanging"], seconds["none"], strict=True))
    found = {"machine": machine(), "steps": given.steps, "pairs": given.pairs_per_step}
    found |= {"seconds_per_step": {name: statistics.median(values) for name, values in seconds.items()}}
    write_json(given.out / "trackers.json", {**found, "all": seconds, "ratio": ratio})
    print(f"a step takes {ratio:.4f} times as long with a tracker that hangs as without any")


def step_seconds(config: Config, work: Workload, run: Path, name: str, *, steps: int) -> float:
    """A step's mean in a training of so many steps, into the folder `run`; what comes after them is not counted."""
    changes = {"max_steps": steps, "eval_every": None, "save_every": None}
    logging = config.logging.model_copy(update={"log_every": 1})
    own = config.model_copy(update={"training": config.training.model_copy(update=changes), "logging": logging})
    tracker = Hanging()
    trainer = create_trainer(
        model=build_model(own, work.tokenizers),
        train_dataloader=work.loader,
        config=own,
        run_dir=run,
        progress=Progress(Console(file=StringIO())),
        trackers=[tracker] if name == "hanging" else [],
    )
    trainer.watch = watch = Steps()
    with patch("pytorch_dl.training.tracking.CLOSING_SECONDS", 0.1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is switched off
        trainer.train()
    tracker.released.set()
    assert tracker.is_called == (name == "hanging") and len(watch.seconds) == steps
    return sum(watch.seconds) / steps


if __name__ == "__main__":
    main()
