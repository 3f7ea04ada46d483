"""A profile of some steps of a training: `trace.json.gz` for a browser (perfetto.dev), `step.md` for people.

After a warm-up some steps are timed as they are, some under torch's profiler, and one with an eye on every allocation.
The bits of the training stay what they are.
"""

import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import profile, record_function

from pytorch_dl.files import new_folder
from pytorch_dl.training.step_costs import STEP, Share, StepCosts, costs_of, held_at_the_peak
from pytorch_dl.training.step_memory import Memory, memory_of, watched_step
from pytorch_dl.training.step_parts import unwatched
from pytorch_dl.training.traces import Event, events_of, new_profiler
from pytorch_dl.training.trainer import OptimizedTrainer

TRACE, TABLE = "trace.json.gz", "step.md"
WARMUP, TIMED, TRACED = 5, 4, 4  # steps; before the traced ones the profiler has one to itself, and its own warm-up
LINES_SAID = 4
Say = Callable[[str], None]


@contextmanager
def profiled(trainer: OptimizedTrainer, folder: Path, say: Say) -> Iterator[None]:
    """Profile the training that goes on inside, and write the result into `folder`."""
    trainer.watch = watch = StepProfile(trainer, folder, say)
    try:
        yield
    finally:
        trainer.watch = unwatched
        watch.close()
    if not watch.is_done:
        say(f"no profile: it needs {watch.steps} steps, and training had {trainer.state.step:,}")


class StepProfile:
    """Looks at each step."""

    def __init__(self, trainer: OptimizedTrainer, folder: Path, say: Say) -> None:
        self.trainer, self.folder, self.say = trainer, folder, say
        self.steps = WARMUP + TIMED + 1 + TRACED + 1
        self.seen = 0
        self.is_done = False
        self._seconds: list[float] = []
        self._profiler: profile | None = None
        self._events: list[Event] = []

    @contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        """Around a step: what is done depends on how many there were."""
        place = self.seen - WARMUP
        if place == self.steps - WARMUP - 1:
            yield from self._last_step(step)
        elif place >= TIMED:
            yield from self._traced_step(place)
        else:
            started = time.perf_counter()
            yield
            if place >= 0:
                self._seconds.append(time.perf_counter() - started)
        self.seen += 1

    def close(self) -> None:
        """End a profile that training has left in the middle."""
        if self._profiler:
            self._profiler.stop()
        self._profiler = None

    def _traced_step(self, place: int) -> Iterator[None]:
        if place in (TIMED, TIMED + 1):
            self.close()  # the first one: it takes long to begin
            self._profiler = new_profiler(self.trainer.device)
            self._profiler.start()
        with record_function(STEP):
            yield
        if place == TIMED + TRACED:
            assert self._profiler
            profiler, self._profiler = self._profiler, None
            profiler.stop()
            self._events = events_of(profiler)

    def _last_step(self, step: int) -> Iterator[None]:
        with watched_step(self.trainer) as live:
            yield
        memory = memory_of(self.trainer, [live.peak])
        costs = costs_of(self._events)
        made = held_at_the_peak(live.events) if live.events else []
        own_ms = 1000 * sum(self._seconds) / len(self._seconds)
        lines = report(costs, memory, made, own_ms=own_ms, last=step)
        with new_folder(self.folder) as folder:
            with gzip.open(folder / TRACE, "wt", encoding="utf-8") as file:
                json.dump({"traceEvents": self._events}, file)
            (folder / TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.is_done = True
        for line in short(costs, memory, self.folder):
            self.say(line)


def report(costs: StepCosts, memory: Memory, made: Sequence[Share], *, own_ms: float, last: int) -> list[str]:
    """The tables, in Markdown."""
    first = last - costs.steps
    sizes = {
        "weights": memory.weights,
        "optimizer": memory.optimizer,
        "average": memory.average,
        "gradients, once they are whole": memory.gradients,
        "activations at their peak": memory.activations,
        "all at the peak of the step": memory.peak,
    }
    held = [Share(name, size, size / memory.peak) for name, size in sizes.items() if size]
    return [
        f"# Steps {first:,} to {last - 1:,} of a training",
        "",
        f"A step took {own_ms:,.1f} ms before the profile, and {costs.step_ms:,.1f} ms under it: what is very short "
        "weighs too much in it. All figures are of a step in the mean.",
        "",
        *_table("part of the step", "ms", costs.parts, "{:,.2f}", 1),
        *_table("kind of operation", "ms", costs.kinds, "{:,.2f}", 1),
        *_table("operation, without those that it calls", "ms", costs.operations, "{:,.2f}", 1),
        *_table("memory of live tensors", "MB", held, "{:,.2f}", 1e6),
        *(_table("activations at their peak, by what made them", "MB", made, "{:,.2f}", 1e6) if made else []),
        "Gradients and activations do not peak together. In compiled layers most of what is done to single numbers is "
        f"fused into the operations that are called compiled. All of it is in {TRACE}: open it at perfetto.dev.",
    ]


def short(costs: StepCosts, memory: Memory, folder: Path) -> list[str]:
    """The costliest, in a few lines."""

    def shown(rows: Sequence[Share]) -> str:
        return ", ".join(f"{row.name} {100 * row.share:.0f} %" for row in rows[:LINES_SAID])

    return [
        f"a step, by its parts: {shown(costs.parts)}",
        f"a step, by operations: {shown(costs.kinds)}",
        f"memory of a step: {memory.peak / 1e6:,.1f} MB at the peak; weights {memory.weights / 1e6:,.1f} MB, "
        f"activations up to {memory.activations / 1e6:,.1f} MB",
        f"the profile is in {folder}",
    ]


def _table(what: str, unit: str, rows: Sequence[Share], form: str, scale: float) -> list[str]:
    lines = [f"| {what} | {unit} | share |", "|---|---:|---:|"]
    for row in rows:
        name, amount = row.name.replace("|", "/"), form.format(row.amount / scale)
        lines.append(f"| {name} | {amount} | {100 * row.share:.1f} % |")
    return [*lines, ""]
