"""What safety costs: a training with all of it, and one without any, by turns; `python benchmark/safety.py`.

With: a look at loss and gradients before each update and at the weights before each save, watching for loss spikes, the
largest batch tried, signals, the record, and checkpoints that are flushed to the disk. Without: none of it, and nothing
is written. Of each training the median time from one step to the next, which saves and stalls of the machine do not
move, and the time of the whole. Writes safety.json.
"""

import inspect
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock, patch

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from benchmark.measuring.command_line import positive, say
from benchmark.measuring.machine import machine
from benchmark.race.workload import Workload, prepare
from benchmark.rungs.options import configured, parser
from pytorch_dl.building import build_model
from pytorch_dl.config import Config
from pytorch_dl.files import write_json
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.step import Passes, Reading
from pytorch_dl.training.trainer import create_trainer

NAMES = ("with", "without")


def main() -> None:
    """Measure and write."""
    options = parser(__doc__, steps=240)
    options.add_argument("--repeats", type=positive, default=5, help="trainings of each")
    options.add_argument("--save-every", type=positive, default=120, help="steps between checkpoints")
    given = options.parse_args()
    keep_freed_memory()
    config, timed = configured(given), {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(config, Path(scratch), pairs_per_step=given.pairs_per_step)
        for repeat in range(-1, given.repeats):
            for name in NAMES if repeat % 2 else reversed(NAMES):
                run = Path(scratch) / f"{name}{repeat}" if name == "with" else None
                taken = times(config, work, run, steps=given.steps, save_every=given.save_every)
                if repeat >= 0:
                    timed[name].append(taken)
            say(f"repeat {repeat + 1} of {given.repeats}" if repeat >= 0 else "warm")
    found = {"machine": machine(), "steps": given.steps, "save_every": given.save_every, "pairs": given.pairs_per_step}
    for what in Times._fields:
        seconds = {name: [getattr(taken, what) for taken in timed[name]] for name in NAMES}
        ratio = statistics.median(a / b for a, b in zip(seconds["with"], seconds["without"], strict=True))
        found[what] = {"ratio": ratio, "seconds": seconds}
    write_json(given.out / "safety.json", found)
    print(
        f"with all safety a step takes {found['step']['ratio']:.3f} times as long as without any, and a training of "
        f"{given.steps} steps that saves every {given.save_every} {found['whole']['ratio']:.3f} times"
    )


class Times(NamedTuple):
    """Seconds of a training."""

    step: float  # from one step to the next, in the median
    whole: float  # all of it, saves included


def times(config: Config, work: Workload, run: Path | None, *, steps: int, save_every: int) -> Times:
    """Of a training of so many steps, in the folder `run` with all safety; None: with none."""
    changes: dict[str, Any] = {"max_steps": steps, "eval_every": None}
    changes |= {"save_every": save_every, "undo_loss_spikes": 3.0} if run else {"save_every": None}
    own = config.model_copy(update={"training": config.training.model_copy(update=changes)})
    trainer = create_trainer(
        model=build_model(own, work.tokenizers),
        train_dataloader=work.loader,
        config=own,
        run_dir=run or Path("nowhere"),
        progress=Progress(Console(file=StringIO())),
    )
    if run is None:
        trainer.checkpoints.folder = trainer.reporter.folder = None
    begin, begun = trainer.begin_step, list[float]()

    def noted(*given: Any, **options: Any) -> Reading:
        begun.append(time.perf_counter())
        return begin(*given, **options)

    with nullcontext() if run else unsafe(), patch.object(trainer, "begin_step", noted):
        start = time.perf_counter()
        trainer.train()
        end = time.perf_counter()
    return Times(statistics.median(after - before for before, after in pairwise(begun)), end - start)


@contextmanager
def unsafe() -> Iterator[list[Mock]]:
    """Without what looks at numbers, signals and memory; who saves nothing does not look at weights, nor for spikes.

    Yields what is called in their places.
    """
    trainer = "pytorch_dl.training.trainer"
    with (
        patch("pytorch_dl.training.update.WeightUpdate.check") as check,
        patch("pytorch_dl.training.signals.StopRequest.poll") as poll,
        patch(f"{trainer}.OptimizedTrainer._explaining", return_value=nullcontext()) as explaining,
        patch(f"{trainer}.try_largest") as largest,
        patch("pytorch_dl.training.step.Passes.__call__", inspect.unwrap(Passes.__call__)),  # does not name its batch
    ):
        yield [check, poll, explaining, largest]


if __name__ == "__main__":
    main()
