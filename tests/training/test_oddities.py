"""What is said of a training that is about to begin, and of which ones nothing is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_loader, tiny_model, tiny_trainer

from pytorch_dl.config.model_config import OptimizerConfig
from pytorch_dl.errors import Interrupted
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.trainer import OptimizedTrainer

NOAM = 2.0  # OpenNMT-py's factor


def trainer(rate: float, folder: Path | None = None, **changes: Any) -> OptimizedTrainer:
    """Of a model of width 16, for two steps."""
    given = {"settings": {"max_steps": 2, "learning_rate": rate}, "val_dataloader": None}
    return tiny_trainer(folder, **{**given, **changes})


def warnings(trainer: OptimizedTrainer) -> list[str]:
    lines = trainer.reporter.progress.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [line for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize(("rate", "said"), [(0.05, False), (0.0501, True), (NOAM, True)])
def test_a_high_learning_rate_with_adam(rate: float, said: bool) -> None:
    found = trainer(rate)
    found.train()
    few, *others = warnings(found)
    assert few.startswith("warning: 2 optimizer steps in all teach a model little; raise training.num_epochs")
    assert len(others) == said
    if said:
        assert others[0].startswith(f"warning: the highest learning rate is {rate:g}, and 1e-4 to 5e-3 are usual")
        assert "OpenNMT-py" in others[0] and "factor * d_model^-0.5 * warmup_steps^-0.5" in others[0]


def test_the_converted_rate_is_that_of_the_noam_schedule() -> None:
    found = trainer(NOAM)
    found.train()
    highest = max(NOAM * 16**-0.5 * min(step**-0.5, step * 4000**-1.5) for step in range(1, 9000))  # Vaswani, eq. 3
    assert f"2 is {highest:.2g} for d_model 16 and 4,000 steps of warm-up" in warnings(found)[-1]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_sgd_takes_such_rates(name: str) -> None:
    model = tiny_model()
    found = trainer(1.0, model=model, optimizer=make_optimizer(model, OptimizerConfig(name=name), learning_rate=1.0))
    found.train()
    assert len(warnings(found)) == (1 if name == "sgd" else 2)


def test_it_is_the_highest_rate_of_the_schedule_that_counts() -> None:
    """With a rate of 1 and the schedule of the paper as the factor, as others have it, nothing is wrong."""
    model = tiny_model()
    given = {"model": model, "optimizer": torch.optim.Adam(model.parameters(), lr=1.0)}
    noam = trainer(1e-3, **given, schedule=lambda step, total: 512**-0.5 * min(step**-0.5, step * 4000**-1.5))
    late = trainer(1e-3, **given, schedule=lambda step, total: float(step == total))
    noam.train()
    late.train()
    assert len(warnings(noam)) == 1
    assert "the highest learning rate is 1, " in warnings(late)[-1]


def test_a_training_that_goes_on_is_told_nothing_again(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trainer(NOAM, tmp_path).train(stop_after=1)
    again = trainer(NOAM, tmp_path)
    assert again.resume()
    again.train()
    assert warnings(again) == []


def test_a_training_of_many_steps_is_not_called_short() -> None:
    found = trainer(1e-3, settings={"max_steps": 200, "learning_rate": 1e-3}, train_dataloader=tiny_loader(4))
    found.train()
    assert warnings(found) == []
