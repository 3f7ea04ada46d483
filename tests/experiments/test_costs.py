"""What is told of the costs of an arm: read from run folders that are written here by hand."""

import json
from pathlib import Path

import pytest

from pytorch_dl.experiments.costs import cost_table, parameter_line, read_cost
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.metrics import METRICS, TIMING
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.train_state import Sums, TrainState


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def finished(path: Path, state: TrainState, *, timing: str | None) -> RunFolder:
    """A run of 50 steps with a line for each 20."""
    folder = RunFolder(path)
    ckpt.save_checkpoint(folder.checkpoints, state.step, [], state=state.to_json())
    train = [
        {"step": step, "kind": "train", "tgt_tokens": 10 * step, "learning_rate": 1 / step, "nll": 2.0}
        for step in (20, 40)
    ]
    (path / METRICS).write_text(lines(*train, {"step": 40, "kind": "validation", "val_loss": 1.0, "tgt_tokens": 7}))
    if timing is not None:
        (path / TIMING).write_bytes(timing.encode("latin-1"))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFolder]:
    timing = lines(*({"step": step, "tokens_per_second": 1000.0 + step} for step in (20, 40)))
    left = Sums(steps=10, tgt_tokens=55)
    states = [
        TrainState(step=50, seconds=61.0, since_log=left),
        TrainState(step=50, seconds=59.0, since_log=left, precision="bf16", compiled=True),
    ]
    return [finished(tmp_path / str(n), state, timing=timing) for n, state in enumerate(states)]


def test_costs_are_those_of_the_runs(runs):
    cost = read_cost("relu", runs, parameters=12_345)
    assert (cost.arm, cost.parameters, cost.steps, cost.seconds) == ("relu", 12_345, [50, 50], [61.0, 59.0])
    assert cost.tgt_tokens == [200 + 400 + 55] * 2, "of lines, and since the last one"
    assert cost.learning_rate == [1 / 40] * 2
    assert cost.tokens_per_second == 1030.0, "the median of all lines"
    assert cost.kernels == ["bf16, compiled", "fp32"]
    assert cost.left_out == [] and json.loads(json.dumps(cost.to_json())) == cost.to_json()


def test_the_table_has_a_row_for_each_arm_and_spans_of_its_seeds(runs):
    table = cost_table([read_cost("relu", runs, parameters=12_345), read_cost("gelu", runs[:1], parameters=12_500)])
    assert table == [
        ["arm", "parameters", "steps", "target tokens", "tokens/s", "time of a training"],
        ["relu", "12,345", "50", "655", "1,030", "0:59 to 1:01"],
        ["gelu", "12,500", "50", "655", "1,030", "1:01"],
    ]


def test_sizes_of_arms():
    assert parameter_line([500, 500]) == "equal parameters: 500"
    assert parameter_line([520, 500]) == "parameters: 500 to 520, a difference of at most 4 %"


@pytest.mark.parametrize("bad", ['{"step": 30, "tok', "\x00" * 40, '{"step": 30, "tok\n\x00\x00\n', "[1]\n"])
def test_bad_lines_are_left_out_and_said(runs, bad):
    whole = read_cost("relu", runs, parameters=1)
    for name in (METRICS, TIMING):
        with open(runs[1].path / name, "ab") as file:
            file.write(bad.encode("latin-1"))
    cost = read_cost("relu", runs, parameters=1)
    assert (cost.tokens_per_second, cost.tgt_tokens) == (whole.tokens_per_second, whole.tgt_tokens)
    assert len(cost.left_out) >= 2 and all(line.startswith(f"{runs[1].path}: ") for line in cost.left_out)
    assert METRICS in cost.left_out[0] and TIMING in cost.left_out[-1]


def test_a_step_that_was_done_again_counts_once(runs):
    with open(runs[0].path / TIMING, "a") as file:
        file.write(lines(*[{"step": 40, "tokens_per_second": 5000.0}] * 9))
    assert read_cost("relu", runs[:1], parameters=1).tokens_per_second == (1020 + 5000) / 2


def test_a_run_too_short_for_a_line_lacks_nothing(tmp_path):
    cost = read_cost("relu", [finished(tmp_path, TrainState(step=9), timing=None)], parameters=1)
    assert cost.tokens_per_second is None and cost.left_out == []
    assert cost_table([cost])[1][4] == ""
