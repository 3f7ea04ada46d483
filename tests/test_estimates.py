"""The comparison of estimates with trainings, with trainings of a moment."""

import json

import pytest
from tiny_runs import call

from benchmark import estimates


@pytest.mark.parametrize("case", estimates.CASES, ids=lambda case: case.name)
def test_configurations_are_sound(case):
    assert "max_steps: " in estimates.configuration(case, None, quick=False)


def test_estimates_are_compared_with_what_happened(tmp_path, capsys, monkeypatch):
    def command(cache, *words):
        result = call(capsys, *words)
        assert result.code == 0, result.err
        return result.out

    monkeypatch.setattr(estimates, "command", command)
    estimates.main(["--quick", "--only", "dates, packed", "--out", str(tmp_path / "estimates.json")])
    written = json.loads((tmp_path / "estimates.json").read_bytes())
    (row,) = written["cases"]
    assert row["name"] == "nano, dates, packed" and row["text"] == "dates"
    assert row["estimated"].keys() == row["measured"].keys() == row["off_percent"].keys()
    assert row["measured"]["steps"] == row["estimated"]["steps"] == 30
    assert abs(row["off_percent"]["tgt_tokens"]) < 10
    for name, off in row["off_percent"].items():
        assert off == pytest.approx(100 * (row["estimated"][name] / row["measured"][name] - 1))
