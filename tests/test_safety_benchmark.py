"""The measurement of what safety costs: what it takes out is what training calls."""

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
