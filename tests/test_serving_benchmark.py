"""The measurement of a server under load, for a few seconds: nothing is wrong, and what would be wrong is seen."""

import json

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from benchmark import serving


def test_a_few_seconds_of_load(tiny_run):
    found = serving.measure(tiny_run, minutes=0.05, clients=8)
    assert [found[name] for name in ("crashes", "answers_5xx", "wrong_answers", "exit_code")] == [0, 0, 0, 0]
    assert set(found["outcomes"]["valid"]) == {"200"}
    assert json.dumps(found)


def test_wrong_answers_and_failures_are_counted():
    load = serving.Load(0, {("a", 1): ("A", -0.5), ("b", 1): ("B", -0.5)}, ["a", "b"])
    lines = [{"text": "A", "score": -0.5000001}, {"text": "C", "score": -0.5}]
    serving.check(load, ["a", "b"], 1, json.dumps({"translations": lines}).encode())
    for status in (200, 500, 503, "closed"):
        load.count("valid", status)
    told = serving.told(load)
    assert (told["wrong_answers"], told["answers_5xx"], told["requests"]) == (1, 2, 4)
    assert told["wrong_examples"] == [{"text": "b", "beam": 1, "found": ["C", -0.5], "is": ["B", -0.5]}]


def test_percentiles():
    found = serving.percentiles([number / 1000 for number in range(101)])
    assert found == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    assert serving.percentiles([]) == {}
