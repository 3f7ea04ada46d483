"""What a comparison says of its terms: what was equal in all trainings, and what was not."""

import pytest

from pytorch_dl.comparing.results import Results
from pytorch_dl.experiments.arms import Budget
from pytorch_dl.experiments.costs import Cost
from pytorch_dl.experiments.verdict import Findings


def cost(
    arm: str, *, steps=(20, 20), tokens=(1000, 1000), seconds=(60.0, 60.0), kernels=("fp32",), left_out=()
) -> Cost:
    lists = [list(values) for values in (steps, tokens, [0.0, 0.0])]
    return Cost(arm, 500, *lists, 100.0, list(seconds), list(kernels), list(left_out))


def results(*costs: Cost, budget: Budget | None = None) -> Results:
    findings = Findings(2, [], [], {}, [], {})
    return Results(findings, costs, text="test text", why_metric="asked for", budget=budget, unfinished=None)


@pytest.mark.parametrize(
    ("other", "budget", "told"),
    [
        ({}, None, "equal steps: 20 each (1,000 target tokens)"),
        (
            {"steps": (30, 31), "tokens": (1500, 1501)},
            None,
            "as long as the configuration says: 20 to 31 steps, 1,000 to 1,501 target tokens",
        ),
        (
            {"steps": (19, 20), "tokens": (960, 1040)},
            Budget("tokens", 1000),
            "equal target tokens: about 1,000 each (19 to 20 steps, 960 to 1,040 target tokens)",
        ),
        (
            {"steps": (9, 20), "tokens": (450, 1000)},
            Budget("tokens", 1000),
            "at most about 1,000 target tokens each; some trainings ended sooner (9 to 20 steps, 450 to 1,000 target "
            "tokens)",
        ),
        (
            {"steps": (9, 20), "tokens": (450, 1000)},
            Budget("steps", 20),
            "at most 20 steps each; some trainings ended sooner (9 to 20 steps, 450 to 1,000 target tokens)",
        ),
        ({}, Budget("steps", 20), "equal steps: 20 each (1,000 target tokens)"),
        (
            {"steps": (33, 34), "seconds": (60.5, 58.0)},
            Budget("time", 60),
            "equal time: 1:00 of training each (20 to 34 steps, 1,000 target tokens)",
        ),
        ({"seconds": (60.5, 56.0)}, Budget("time", 60), "at most 1:00 of training each; the shortest took 0:56"),
    ],
)
def test_what_was_equal(other, budget, told):
    assert results(cost("a"), cost("b", **other), budget=budget).budget_line() == told


@pytest.mark.parametrize(
    ("kernels", "told"),
    [
        ((["fp32"], ["fp32"]), []),
        (
            (["fp32"], ["bf16, compiled", "fp32"]),
            ["not all were computed alike: a: fp32", "not all were computed alike: b: bf16, compiled and fp32"],
        ),
        ((["bf16", "fp32"], ["bf16", "fp32"]), [f"not all were computed alike: {arm}: bf16 and fp32" for arm in "ab"]),
    ],
)
def test_what_was_computed_otherwise_is_said(kernels, told):
    found = results(*(cost(arm, kernels=some) for arm, some in zip("ab", kernels, strict=True)))
    assert [line for line in found.cost_lines() if line.startswith("not all")] == told


def test_records_that_could_not_be_read_are_said():
    found = results(cost("a"), cost("b", left_out=["runs/b: timing.jsonl: 1 line is no record, and left out."]))
    assert found.cost_lines()[-1] == "runs/b: timing.jsonl: 1 line is no record, and left out."
