"""What a report holds: numbers for programs, the same rounded for people."""

import json
import math

import pytest

from pytorch_dl.evaluation.metrics import exact_match, perplexity_score
from pytorch_dl.evaluation.report import Evaluation, text_scores, write_report

SOURCES = [f"source {'word ' * (n % 7)}" for n in range(40)]
REFERENCES = [f"the reference of number {n}" for n in range(40)]
HYPOTHESES = [line.replace("reference", "hypothesis") if n % 2 else line for n, line in enumerate(REFERENCES)]
NAMES = ["BLEU", "chrF2", "chrF2++", "TER", "exact match", "token error rate", "character error rate"]


def evaluation(scores=None) -> Evaluation:
    scores = scores or text_scores(HYPOTHESES, REFERENCES)
    return Evaluation.of(SOURCES, scores, counts={"source": 200, "word": 9}, counted_in="a text")


def test_all_scores_of_texts():
    assert [score.name for score in text_scores(HYPOTHESES, REFERENCES)] == NAMES
    assert [score.name for score in text_scores(HYPOTHESES, REFERENCES, with_ter=False)] == [
        name for name in NAMES if name != "TER"
    ]
    assert [score.name for score in text_scores(["a"], ["b c"])] == NAMES[1:]


def test_json_has_each_score_with_its_interval():
    found = evaluation().to_json()
    assert [row["name"] for row in found["scores"]] == NAMES
    assert all(row["low"] < row["value"] < row["high"] and row["signature"] for row in found["scores"])
    assert [part["by"] for part in found["breakdowns"]] == ["source length", "frequency of the rarest source word"]
    assert found["breakdowns"][1]["counted_in"] == "a text"
    for part in found["breakdowns"]:
        assert sum(bucket["lines"] for bucket in part["buckets"]) == 40
        assert all([row["name"] for row in bucket["scores"]] == NAMES for bucket in part["buckets"])


def test_what_is_no_number_is_null():
    scores = [perplexity_score([1e9, 1.0], [1, 1]), *text_scores(["a"] * 2, ["b"] * 2)]
    assert scores[0].value == math.inf
    found = Evaluation.of(["a b", "c d"], scores, counts={}, counted_in="a text").to_json()
    assert found["scores"][0] | {"low": 0} == {
        "name": "perplexity", "value": None, "low": 0, "high": None, "signature": "tokens:2"
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("nll", "told"), [(700.0, "1.0e+304"), (1e9, "inf")])
def test_a_huge_perplexity_can_be_read(nll, told, tmp_path):
    found = Evaluation.of(["a"] * 9, [perplexity_score([nll] * 9, [1] * 9)], counts={}, counted_in="a text")
    assert found.score_lines() == [f"perplexity           {told:>8}  {told + ' to ' + told:<19}tokens:9"]
    write_report(tmp_path, found, [], facts={})
    assert f"| perplexity | {told} | {told} to {told} | tokens:9 |" in (tmp_path / "report.md").read_text()


def test_a_single_line_has_no_interval():
    found = Evaluation.of(["a"], [exact_match(["a"], ["a"])], counts={}, counted_in="a text")
    assert found.to_json()["scores"][0]["low"] is None
    assert found.lines() == ["exact match            100.00                     nrefs:1|case:mixed|unit:line"]


def test_lines_for_people():
    scores = [exact_match(HYPOTHESES, REFERENCES)]
    lines = evaluation(scores).lines()
    assert lines[0] == "exact match             50.00  35.00 to 65.00     nrefs:1|case:mixed|unit:line"
    assert lines[1:5] == [
        "",
        "by source length in words",
        "  words       lines  exact match",
        "  up to 2        12   50.0 ±25.0",
    ]
    assert lines[-4:] == [
        "by frequency of the rarest source word, counted in a text",
        "  frequency   lines  exact match",
        "  2 to 9         34   50.0 ±17.6",
        "  100 to 999      6   50.0 ±33.3",
    ]


def test_the_files(tmp_path):
    found = evaluation()
    write_report(tmp_path, found, [("a source", "a reference", "a translation")], facts={"text": "test", "pairs": 40})
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == {
        "text": "test",
        "pairs": 40,
        **json.loads(json.dumps(found.to_json())),
        "samples": [{"source": "a source", "reference": "a reference", "translation": "a translation"}],
    }
    text = (tmp_path / "report.md").read_text()
    bleu, interval = found.scores[0], found.intervals[0]
    assert f"| BLEU | {bleu.value:.2f} | {interval.low:.2f} to {interval.high:.2f} | nrefs:1 case:mixed" in text
    assert "\nby source length in words:\n\n| words | lines | BLEU | chrF2++ | TER | exact match |\n|---|" in text
    assert "- source: a source\n  - reference: a reference\n  - translation: a translation\n" in text


@pytest.mark.parametrize("name", ["BLEU", "chrF2++", "TER"])
def test_tables_have_the_scores_that_one_reads_first(name):
    assert sum(name in line for line in evaluation().lines()) >= 3
