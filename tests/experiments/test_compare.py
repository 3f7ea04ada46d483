"""The comparison against sacrebleu's command line, and its verdicts where the truth is known."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from pytorch_dl.errors import ConfigError, DataError
from pytorch_dl.evaluation.metrics import bleu, chrf, exact_match, ter
from pytorch_dl.experiments.compare import Comparison, SystemScore, compare
from pytorch_dl.scoring.bootstrap import Interval
from pytorch_dl.scoring.score import Score

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "house",
    "tree",
    "runs",
    "sees",
    "likes",
    "old",
    "green",
    "small",
    "in",
    "under",
    "over",
]


def sentences(count: int) -> list[str]:
    draw = random.Random(1)
    return [" ".join(draw.choices(WORDS, k=draw.randint(6, 12))) for _ in range(count)]


def spoilt(lines: list[str], share: float, seed: int) -> list[str]:
    """Lines with a share of their words replaced."""
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) if draw.random() < share else word for word in s.split()) for s in lines]


REFERENCES = sentences(60)
SYSTEMS = {"relu": spoilt(REFERENCES, 0.3, 2), "swiglu": spoilt(REFERENCES, 0.1, 3), "gelu": spoilt(REFERENCES, 0.3, 4)}


def scored(systems: dict[str, list[str]], metrics=(bleu, chrf)) -> dict[str, list[Score]]:
    """The scores of what systems wrote for the first lines of the references."""
    return {name: [metric(lines, REFERENCES[: len(lines)]) for metric in metrics] for name, lines in systems.items()}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(scored(SYSTEMS), trials=500)


@pytest.fixture(scope="module")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict]]:
    """What `sacrebleu` prints for the systems with some options."""
    folder = tmp_path_factory.mktemp("sacrebleu")
    for name, lines in {"ref": REFERENCES, **SYSTEMS}.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "SACREBLEU_SEED"}

    def call(options: str) -> list[dict]:
        command = f"{sys.executable} -m sacrebleu ref -i {' '.join(SYSTEMS)} -f json {options}"
        done = subprocess.run(command.split(), cwd=folder, env=environment, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        assert [row["system"] for row in found] == ["Baseline: relu", "swiglu", "gelu"]
        return found

    return call


def test_scores_and_p_values_equal_those_of_the_command_line(comparison, command_line):
    rows = command_line("-m bleu chrf --paired-ar --paired-ar-n 500")
    shown = dict(zip(SYSTEMS, rows, strict=True))
    for ours in comparison.scores:
        want = shown[ours.system][ours.metric]
        assert ours.value == pytest.approx(want["score"], abs=1e-9) and 20 < ours.value < 95
        assert ours.p_value == want["p_value"]
        assert (ours.p_value is None) == (ours.system == "relu")


def test_intervals_are_those_of_the_command_line(comparison, command_line):
    rows = command_line("-m bleu --paired-bs")  # of chrF, sacrebleu 2.6 cannot write this as JSON
    for ours, row in zip(comparison.scores[:3], rows, strict=True):
        assert ours.metric == "BLEU" and ours.interval.margin > 0.5
        assert ours.interval.margin == pytest.approx(row["BLEU"]["ci"], rel=1e-5)


def test_a_better_system_is_better_and_a_like_one_is_not(comparison):
    assert comparison.level == 0.025
    verdicts = comparison.verdicts()
    assert len(verdicts) == 4
    for metric, (better, alike) in zip(("BLEU", "chrF2"), (verdicts[:2], verdicts[2:]), strict=True):
        value = {s.system: s.value for s in comparison.scores if s.metric == metric}
        gain = value["swiglu"] - value["relu"]
        assert better == f"swiglu is better than relu by {gain:.2f} {metric} (p = 0.0020)"
        assert re.fullmatch(
            rf"no difference shown between gelu and relu in {metric} \([+-]\d\.\d\d, p = 0\.\d\d\)", alike
        )


def test_a_worse_system_is_worse():
    systems = {"swiglu": SYSTEMS["swiglu"], "relu": SYSTEMS["relu"]}
    verdicts = compare(scored(systems, (bleu, ter)), trials=200).verdicts()
    assert verdicts[0].startswith("relu is worse than swiglu by ") and verdicts[1].endswith("TER (p = 0.0050)")


def test_of_an_error_rate_less_is_better():
    systems = {"relu": SYSTEMS["relu"], "swiglu": SYSTEMS["swiglu"]}
    found = compare(scored(systems, (ter,)), trials=200)
    assert found.scores[1].value < found.scores[0].value
    assert re.fullmatch(r"swiglu is better than relu by \d+\.\d\d TER \(p = 0\.0050\)", found.verdicts()[0])


def test_identical_systems_show_no_difference():
    one = scored({"a": SYSTEMS["relu"]})["a"]
    found = compare({"a": one, "b": one}, trials=200)
    assert found.verdicts() == [
        f"no difference shown between b and a in {metric} (+0.00, p = 1.00)" for metric in ("BLEU", "chrF2")
    ]


def test_what_the_tokeniser_takes_apart_makes_no_difference():
    commas = [line.replace("the", "the,") for line in SYSTEMS["relu"]]
    found = compare(scored({"a": [line.replace(",", " ,") for line in commas], "b": commas}, (bleu,)), trials=50)
    assert found.scores[1].value == found.scores[0].value and found.scores[1].p_value == 1.0


@pytest.mark.parametrize(("differing", "p"), [(0, 1.0), (1, 1.0), (2, 0.5), (5, 0.0625), (6, 0.03125)])
def test_few_differing_lines_show_nothing(differing, p):
    worse = ["nothing right here"] * differing + REFERENCES[differing:]
    found = compare(scored({"a": REFERENCES, "b": worse}, (bleu, exact_match)), trials=500)
    assert [s.p_value for s in found.scores if s.system == "b"] == [p, p]
    assert all(verdict.startswith("no difference" if p > 0.05 else "b is worse") for verdict in found.verdicts())


def test_the_seed_decides():
    some = scored({name: lines[:12] for name, lines in SYSTEMS.items()})
    first, again, other = (compare(some, trials=50, seed=seed) for seed in (7, 7, 8))
    assert first == again != other
    assert first.signatures["BLEU"] == f"{some['relu'][0].signature}|ar:50|bs:1000|seed:7"


def test_lines_for_people(comparison):
    scores = [
        SystemScore("relu", "BLEU", 30.0, Interval(28.81, 31.21), None),
        SystemScore("swiglu", "BLEU", 30.8, Interval(29.6, 31.8), 0.012),
    ]
    assert Comparison(scores, {"BLEU": "nrefs:1"}).lines() == [
        "system  metric  score   95 % interval    p",
        "relu    BLEU    30.00   28.81 to 31.21",
        "swiglu  BLEU    30.80   29.60 to 31.80   0.0120",
        "",
        "swiglu is better than relu by 0.80 BLEU (p = 0.01)",
        "BLEU: nrefs:1",
    ]
    assert "a difference counts below p = 0.0250: 0.05 over all comparisons (Bonferroni)" in comparison.lines()


def test_json_for_programs(comparison):
    rows = comparison.to_json()
    assert [(row["system"], row["metric"]) for row in rows] == [
        ("swiglu", "BLEU"), ("gelu", "BLEU"), ("swiglu", "chrF2"), ("gelu", "chrF2"),
    ]  # fmt: skip
    assert [row["verdict"] for row in rows] == ["better", "no difference shown"] * 2
    values = {(score.system, score.metric): score.value for score in comparison.scores}
    for row in rows:
        assert row["difference"] == row["value"] - values["relu", row["metric"]]
        assert row["low"] < row["value"] < row["high"] and row["first"] == "relu" and row["level"] == 0.025
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


@pytest.mark.parametrize(
    ("lines", "options", "error", "message"),
    [
        ({"a": 1}, {}, ConfigError, "a comparison of 1 system"),
        ({"a": 1, "b": 1}, {"trials": 0}, ConfigError, "trials is 0"),
        ({"a": 1, "b": 1}, {"seed": -1}, ConfigError, "seed is -1"),
        ({"a": 2, "b": 1}, {}, DataError, "b has 1 translations, a 2"),
    ],
)
def test_what_cannot_be_compared(lines, options, error, message):
    systems = scored({name: REFERENCES[:count] for name, count in lines.items()})
    with pytest.raises(error, match=message):
        compare(systems, **options)


def test_other_metrics_cannot_be_compared():
    a, b = scored({"a": REFERENCES})["a"], scored({"b": REFERENCES}, (bleu,))["b"]
    with pytest.raises(ConfigError, match=r"b has the scores \['BLEU'\]"):
        compare({"a": a, "b": b})
