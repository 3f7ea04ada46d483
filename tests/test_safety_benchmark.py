"""The measurement of what safety costs: what it takes out is what training calls."""

import json

import pytest
from tiny import tiny_trainer

from benchmark import safety

LACKING = "pytorch_dl.training.step.batch_loss"


def test_what_is_taken_out_is_what_training_calls(monkeypatch):
    with safety.unsafe() as taken:
        tiny_trainer().train(num_epochs=1)
        assert [place for place in taken if not place.called] == []
        assert len(taken) == 4

        def lack(*_, **__):
            raise MemoryError

        monkeypatch.setattr(LACKING, lack)
        trainer = tiny_trainer()
        with pytest.raises(MemoryError):  # and not the error that names the batch
            trainer.train(num_epochs=1)


def test_what_is_written_says_what_a_step_and_a_training_take(tmp_path, monkeypatch):
    tiny = ["model.d_model=16", "model.n_heads=2", "model.num_encoder_layers=1", "model.num_decoder_layers=1"]
    options = ["--steps", "6", "--save-every", "3", "--repeats", "2", "--pairs-per-step", "4", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["safety.py", *options, *tiny])
    safety.main()
    found = json.loads((tmp_path / "safety.json").read_text())
    for name in ("with", "without"):
        for step, whole in zip(found["step"]["seconds"][name], found["whole"]["seconds"][name], strict=True):
            assert 0 < 3 * step < whole  # at least half of the steps take that long
    ratios = [a / b for a, b in zip(*found["step"]["seconds"].values(), strict=True)]
    assert found["step"]["ratio"] == sum(ratios) / 2
