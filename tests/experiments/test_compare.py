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
from pytorch_dl.experiments.compare import Comparison, SystemScore, compare_translations, least_p_value

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


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare_translations(REFERENCES, SYSTEMS, trials=500)


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
    shown = {
        s.system: row
        for s, row in zip(
            comparison.scores[:3], command_line("-m bleu chrf --paired-ar --paired-ar-n 500"), strict=True
        )
    }
    for ours in comparison.scores:
        want = shown[ours.system][ours.metric]
        assert ours.value == pytest.approx(want["score"], abs=1e-9) and 20 < ours.value < 95
        assert ours.p_value == want["p_value"]
        assert (ours.p_value is None) == (ours.system == "relu")


def test_intervals_are_those_of_the_command_line(comparison, command_line):
    rows = command_line("-m bleu --paired-bs")  # of chrF, sacrebleu 2.6 cannot write this as JSON
    for ours, row in zip(comparison.scores[:3], rows, strict=True):
        exact = ours.system == "relu"  # the others' resamples are drawn behind the shuffles of the test
        assert ours.metric == "BLEU" and ours.margin > 0.5
        assert ours.mean == pytest.approx(row["BLEU"]["mean"], abs=1e-9 if exact else 0.3)
        assert ours.margin == pytest.approx(row["BLEU"]["ci"], rel=1e-9 if exact else 0.15)


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
    bleu, chrf = compare_translations(REFERENCES, systems, trials=200).verdicts()
    assert bleu.startswith("relu is worse than swiglu by ") and chrf.endswith("chrF2 (p = 0.0050)")


def test_identical_systems_show_no_difference():
    found = compare_translations(REFERENCES, {"a": SYSTEMS["relu"], "b": list(SYSTEMS["relu"])}, trials=200)
    assert found.verdicts() == [
        f"no difference shown between b and a in {metric} (+0.00, p = 1.00)" for metric in ("BLEU", "chrF2")
    ]


def test_spaces_make_no_difference():
    spaced = [f" {line.replace(' ', '  ')}" for line in REFERENCES]
    assert least_p_value(REFERENCES, spaced) == 1.0
    other = [line.replace("the", "the,") for line in SYSTEMS["relu"]]  # what BLEU's tokeniser takes apart
    found = compare_translations(REFERENCES, {"a": [line.replace(",", " ,") for line in other], "b": other}, trials=50)
    assert found.scores[1].value == found.scores[0].value and found.scores[1].p_value == 1.0


@pytest.mark.parametrize(("differing", "p"), [(0, 1.0), (1, 1.0), (2, 0.5), (5, 0.0625), (6, 0.03125)])
def test_few_differing_lines_show_nothing(differing, p):
    worse = ["nothing right here"] * differing + REFERENCES[differing:]
    found = compare_translations(REFERENCES, {"a": REFERENCES, "b": worse}, trials=500)
    assert least_p_value(REFERENCES, worse) == p
    assert [s.p_value for s in found.scores if s.system == "b"] == [p, p]
    assert all(verdict.startswith("no difference" if p > 0.05 else "b is worse") for verdict in found.verdicts())


def test_the_seed_decides_and_the_environment_is_left_as_it_was(monkeypatch):
    some = {name: lines[:12] for name, lines in SYSTEMS.items()}
    monkeypatch.setenv("SACREBLEU_SEED", "99")
    again = [compare_translations(REFERENCES[:12], some, trials=50, seed=seed) for seed in (7, 7, 8)]
    assert os.environ["SACREBLEU_SEED"] == "99"
    assert again[0] == again[1] != again[2]
    assert "seed:7|" in again[0].signatures["BLEU"]
    monkeypatch.delenv("SACREBLEU_SEED")
    assert compare_translations(REFERENCES[:12], some, trials=50, seed=7) == again[0]
    assert "SACREBLEU_SEED" not in os.environ


def test_lines_for_people(comparison):
    scores = [
        SystemScore("relu", "BLEU", 30.0, 30.01, 1.2, None),
        SystemScore("swiglu", "BLEU", 30.8, 30.7, 1.1, 0.012),
    ]
    assert Comparison(scores, {"BLEU": "nrefs:1"}).lines() == [
        "system  metric  score   95 % interval   p",
        "relu    BLEU    30.00   28.81 to 31.21",
        "swiglu  BLEU    30.80   29.60 to 31.80  0.0120",
        "",
        "swiglu is better than relu by 0.80 BLEU (p = 0.01)",
        "BLEU: nrefs:1",
    ]
    assert "a difference counts below p = 0.0250: 0.05 over all comparisons (Bonferroni)" in comparison.lines()


@pytest.mark.parametrize(
    ("references", "systems", "options", "error", "message"),
    [
        (["x"], {"a": ["x"]}, {}, ConfigError, "a comparison of 1 system"),
        (["x"], {"a": ["x"], "b": ["x"]}, {"trials": 0}, ConfigError, "trials is 0"),
        (["x"], {"a": ["x"], "b": ["x"]}, {"seed": 0}, ConfigError, "seed is 0"),
        ([], {"a": [], "b": []}, {}, DataError, "there are 0 references"),
        (["x", "y"], {"a": ["x", "y"], "b": ["x"]}, {}, DataError, "b has 1 translations for 2 references"),
    ],
)
def test_what_cannot_be_compared(references, systems, options, error, message):
    with pytest.raises(error, match=message):
        compare_translations(references, systems, **options)
