"""What is said of arms: the table, the sentences, and what one seed may not claim."""

import json

import numpy as np
import pytest

from pytorch_dl.evaluation.metrics import chrf, exact_match
from pytorch_dl.evaluation.report import text_scores
from pytorch_dl.experiments.plot import draw
from pytorch_dl.experiments.verdict import NOTHING, Difference, Findings, find
from pytorch_dl.scoring.bootstrap import Interval
from pytorch_dl.scoring.randomisation import p_value
from pytorch_dl.scoring.score import Score
from pytorch_dl.scoring.seed_variance import SeedScores

LINES = 60
REFERENCES = [f"line {number} of the text" for number in range(LINES)]
GRID = {
    "activation": {"r l": "relu", "r m": "relu", "s l": "swiglu", "s m": "swiglu"},
    "norm_type": {"r l": "layernorm", "r m": "rmsnorm", "s l": "layernorm", "s m": "rmsnorm"},
}


def trained(chance: float, seed: int) -> list[Score]:
    """A system that writes so many of the lines as they are to be."""
    right = np.random.default_rng(seed).random(LINES) < chance
    lines = [line if fits else "something else" for line, fits in zip(REFERENCES, right, strict=True)]
    return [chrf(lines, REFERENCES), exact_match(lines, REFERENCES)]


def arms(chances: dict[str, float], *, seeds: int = 3) -> dict[str, list[list[Score]]]:
    return {
        name: [trained(chance, 100 * place + seed) for seed in range(seeds)]
        for place, (name, chance) in enumerate(chances.items())
    }


@pytest.fixture(scope="module")
def grid() -> Findings:
    """Four arms, of which those with swiglu are better."""
    return find(arms({"r l": 0.4, "r m": 0.4, "s l": 0.8, "s m": 0.8}), metric="exact match", factors=GRID, left_out={})


def test_what_decides_comes_first_and_the_others_are_shown(grid):
    header, first, *others = grid.table()
    assert header == ["arm", "seeds", "exact match", "95 % interval", "chrF2"]
    values = [trained(0.4, seed)[1].value for seed in range(3)]
    assert first[:3] == ["r l", "3", f"{np.mean(values):.2f}"] and len(others) == 3
    low, high = map(float, first[3].split(" to "))
    assert low < np.mean(values) < high


def test_each_arm_is_compared_with_the_first_and_each_value_with_the_first_of_its_setting(grid):
    assert [(d.other, d.first) for d in grid.differences] == [
        *((other, "r l") for other in ("r m", "s l", "s m")),
        ("activation=swiglu", "activation=relu"),
        ("norm_type=rmsnorm", "norm_type=layernorm"),
    ]
    assert grid.level == 0.01
    assert [d.word for d in grid.differences] == [NOTHING, "better", "better", "better", NOTHING]
    effect = grid.differences[3]
    means = {score.arm: score.value for score in grid.scores if score.metric == "exact match"}
    assert effect.value == pytest.approx((means["s l"] + means["s m"] - means["r l"] - means["r m"]) / 2)
    assert effect.interval.margin < grid.differences[1].interval.margin, "twice the trainings tell more"
    assert effect.sentence("BLEU").startswith(
        "activation=swiglu is better than activation=relu, over all norm_type, by "
    )


def test_a_difference_is_shown_where_its_interval_leaves_out_zero(grid):
    for difference in grid.differences:
        low, high = difference.interval
        assert (low < 0 < high) == (difference.word == NOTHING) == (difference.p_value >= grid.level)


def test_worse_is_worse_and_of_an_error_rate_less_is_better():
    one, other = arms({"a": 0.9, "b": 0.2}).values()
    assert find({"a": one, "b": other}, metric="exact match", factors={}, left_out={}).differences[0].word == "worse"
    wrong = {
        name: [[Score("rate", "", s[1].rows, s[1].formula, lower_is_better=True)] for s in arm]
        for name, arm in (("a", one), ("b", other))
    }
    assert find(wrong, metric="rate", factors={}, left_out={}).differences[0].word == "better"


def test_where_nothing_is_shown_it_says_what_could_not_be_seen():
    found = find(arms({"a": 0.5, "b": 0.5}), metric="exact match", factors={}, left_out={"c": "seed 2 ended"})
    difference = found.differences[0]
    assert found.verdict() == (
        f"no difference shown in exact match; differences below some {difference.interval.margin:.2f} exact match "
        "cannot be seen here"
    )
    assert "c is not compared: seed 2 ended" in found.lines()
    assert found.lines()[-1] == f"verdict: {found.verdict()}"


def test_one_seed_speaks_of_the_trained_systems_only():
    systems = arms({"a": 0.3, "b": 0.8}, seeds=1)
    found = find(systems, metric="exact match", factors={}, left_out={})
    want = p_value(systems["a"][0][1], systems["b"][0][1])
    assert found.differences[0].p_value == want and found.differences[0].word == "better"
    assert any("of these trained systems only, not of the settings" in line for line in found.lines())
    assert found.to_json()["speaks_of"] == "these trained systems only"
    assert found.scores[0].interval is not None, "over lines"


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            Difference("b", "a", "", 0.8, Interval(0.4, 1.2), 0.00312, "better"),
            "b is better than a by 0.80 BLEU (+0.40 to +1.20, p = 0.0031)",
        ),
        (
            Difference("b", "a", "", -2, Interval(-3, -1), 1e-7, "worse"),
            "b is worse than a by 2.00 BLEU (-3.00 to -1.00, p < 0.0001)",
        ),
        (
            Difference("b", "a", "", 0.2, Interval(-0.5, 0.9), 0.554, NOTHING),
            "no difference shown between b and a: +0.20 BLEU (-0.50 to +0.90, p = 0.55)",
        ),
    ],
)
def test_sentences(difference, sentence):
    assert difference.sentence("BLEU") == sentence


def test_scores_are_not_told_to_lie_where_none_can():
    found = find(arms({"a": 0.02, "b": 0.98}), metric="exact match", factors={}, left_out={})
    low, high = found.scores[0].interval, found.scores[1].interval
    assert low.low == 0 < low.high < high.low < high.high <= 100


def test_where_nothing_scatters_there_is_no_interval_and_the_number_of_lines_decides():
    found = find(arms({"a": 1.0, "b": 0.0}), metric="exact match", factors={}, left_out={})
    assert found.verdict() == "b is worse than a by 100.00 exact match (p < 0.0001)"
    assert [row[2:4] for row in found.table()[1:]] == [["100.00", ""], ["0.00", ""]]
    one_line = {name: [[seed[1].of(np.arange(1))] for seed in seeds] for name, seeds in arms({"a": 1, "b": 0}).items()}
    found = find(one_line, metric="exact match", factors={}, left_out={})
    assert found.verdict() == f"{NOTHING} in exact match"


def test_json_and_picture(grid, tmp_path):
    found = json.loads(json.dumps(grid.to_json(), allow_nan=False))
    assert next(row["by_seed"] for row in found["scores"] if row["metric"] == "exact match") == [
        trained(0.4, seed)[1].value for seed in range(3)
    ]
    assert found["differences"][3]["over"] == "over all norm_type" and found["differences"][3]["verdict"] == "better"
    draw(tmp_path / "a.png", grid)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    "references", [["<skipped>", "one two three four"], ["...", "a", "-"], ["\u200b", "&quot;"], ["b"]]
)
def test_metrics_of_texts_have_a_value_whichever_lines_are_left_out(references):
    """Else a verdict would speak of nan, and its JSON could not be written."""
    found = [text_scores(lines, references, with_ter=False) for lines in (references, [""] * len(references))]
    assert all(SeedScores([list(pair), list(pair)]).is_defined for pair in zip(*found, strict=True))


@pytest.mark.parametrize("name", ["text=a$_$b.tsv", "text=$\\frac{$", "a$}{$b"])
def test_dollars_in_the_name_of_an_arm_are_no_formula(name, tmp_path):
    found = find(arms({name: 0.4, "b": 0.6}), metric="exact match", factors={}, left_out={})
    draw(tmp_path / "a.png", found)
    found = find(arms({"b": 0.4, name: 0.6}), metric="exact match", factors={}, left_out={})
    draw(tmp_path / "b.png", found)
