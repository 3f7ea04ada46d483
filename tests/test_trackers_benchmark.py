"""The measurement of what a tracker that hangs costs, at a small size."""

import json
import sys

import pytest

from benchmark import trackers

SMALL = ["model.d_model=16", "model.n_heads=2", "model.num_encoder_layers=1", "model.num_decoder_layers=1"]


def test_both_sides_are_timed_by_turns(tmp_path, monkeypatch, capsys):
    asked = []
    step_seconds = trackers.step_seconds

    def timed(*given, **options):
        asked.append(given[3])
        return step_seconds(*given, **options)

    monkeypatch.setattr(trackers, "step_seconds", timed)
    words = ["--steps", "3", "--repeats", "2", "--pairs-per-step", "8", "--out", str(tmp_path), *SMALL]
    monkeypatch.setattr(sys, "argv", ["trackers.py", *words])
    trackers.main()
    found = json.loads((tmp_path / "trackers.json").read_bytes())
    assert asked == ["hanging", "none", "none", "hanging", "hanging", "none"]
    assert {name: len(values) for name, values in found["all"].items()} == {"hanging": 2, "none": 2}
    ratios = [a / b for a, b in zip(found["all"]["hanging"], found["all"]["none"], strict=True)]
    assert found["ratio"] == pytest.approx(sum(ratios) / 2)
    assert f"{found['ratio']:.4f} times as long" in capsys.readouterr().out


def test_more_steps_than_a_tracker_is_given_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["trackers.py", "--steps", "1000"])
    with pytest.raises(SystemExit):
        trackers.main()
    assert "at most 250" in capsys.readouterr().err
