"""What each arm of a comparison has cost: parameters, steps, tokens, speed, time; read from its run folders."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS, TIMING
from pytorch_dl.training.progress import duration
from pytorch_dl.training.record_lines import RecordLines, numbers, read_lines
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.train_state import TrainState


@dataclass(frozen=True)
class Cost:
    """Of one arm; lists have a value for each seed."""

    arm: str
    parameters: int
    steps: list[int]
    tgt_tokens: list[int]
    learning_rate: list[float]
    """The last one."""
    tokens_per_second: float | None
    seconds: list[float]
    """Of training with its validations."""
    kernels: list[str]
    """Number format of the matrix products, and whether layers were compiled."""
    left_out: list[str]
    """What is to be said of records that could not be read as a whole."""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def read_cost(arm: str, folders: Sequence[RunFolder], *, parameters: int) -> Cost:
    """The costs of an arm from the finished runs of its seeds."""
    states = [_state(folder) for folder in folders]
    records = [read_lines(folder.path / METRICS) for folder in folders]
    timings = [_timing(folder) for folder in folders]
    speeds = [speed for timing in timings for _, speed in numbers(timing.rows, "tokens_per_second")]
    tokens = [sum(count for _, count in numbers(record.of("train"), "tgt_tokens")) for record in records]
    rates = [numbers(record.of("train"), "learning_rate") for record in records]
    return Cost(
        arm,
        parameters,
        [state.step for state in states],
        [int(count) + state.since_log.tgt_tokens for state, count in zip(states, tokens, strict=True)],
        [found[-1][1] if found else 0.0 for found in rates],
        statistics.median(speeds) if speeds else None,
        [state.seconds for state in states],
        sorted({f"{state.precision}{', compiled' if state.compiled else ''}" for state in states}),
        [
            f"{folder.path}: {problem}"
            for folder, *pair in zip(folders, records, timings, strict=True)
            for lines in pair
            for problem in lines.problems
        ],
    )


def cost_table(costs: Iterable[Cost]) -> list[list[str]]:
    """A header, and a row for each arm."""
    rows = [["arm", "parameters", "steps", "target tokens", "tokens/s", "time of a training"]]
    for cost in costs:
        speed = f"{cost.tokens_per_second:,.0f}" if cost.tokens_per_second else ""
        time = _span([duration(seconds) for seconds in sorted(cost.seconds)])
        counts = [_span([f"{count:,}" for count in sorted(values)]) for values in (cost.steps, cost.tgt_tokens)]
        rows.append([cost.arm, f"{cost.parameters:,}", *counts, speed, time])
    return rows


def parameter_line(parameters: Iterable[int]) -> str:
    """How far apart the sizes of the arms are."""
    counts = sorted(parameters)
    if counts[0] == counts[-1]:
        return f"equal parameters: {counts[0]:,}"
    share = 100 * (counts[-1] - counts[0]) / counts[0]
    return f"parameters: {counts[0]:,} to {counts[-1]:,}, a difference of at most {share:.2g} %"


def _span(values: Sequence[str]) -> str:
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _state(folder: RunFolder) -> TrainState:
    last = ckpt.checkpoints(folder.checkpoints)[0]
    return ckpt.read_train_state(last)


def _timing(folder: RunFolder) -> RecordLines:
    """Nothing where the run had fewer steps than there are from line to line."""
    path = folder.path / TIMING
    return read_lines(path, once=True) if path.exists() else RecordLines([], [])
