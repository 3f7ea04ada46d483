"""Learning-rate schedules against torch's and against their formulas."""

import math
from collections.abc import Callable

import pytest
import torch

from pytorch_dl.config.model_config import SchedulerConfig
from pytorch_dl.training.schedule import SHAPES, learning_rate_factor

TOTAL = 40


def factors(total_steps: int = TOTAL, **settings: object) -> list[float]:
    config = SchedulerConfig(**settings)
    return [learning_rate_factor(config, step, total_steps) for step in range(1, total_steps + 1)]


def torch_factors(make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]) -> list[float]:
    """Learning rates at 1, 2, ... TOTAL scheduler steps, of a highest rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(TOTAL):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
    return rates


@pytest.mark.parametrize(("warmup", "steps"), [(8, 8), (0.2, 8), (0.5, 20), (1, 1)])
@pytest.mark.parametrize("final_factor", [0.001, 0.1])
def test_onecycle_is_that_of_torch(warmup: float, steps: int, final_factor: float) -> None:
    oracle = torch_factors(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=1.0,
            total_steps=TOTAL + 1,  # torch's step 0 is before our first
            pct_start=(steps + 1) / (TOTAL + 1),
            anneal_strategy="cos",
            div_factor=25,
            final_div_factor=1 / (25 * final_factor),
            cycle_momentum=False,
        )
    )
    assert max(oracle) == 1.0
    assert factors(name="onecycle", warmup=warmup, final_factor=final_factor) == pytest.approx(oracle, rel=1e-12)


def test_cosine_is_that_of_torch() -> None:
    oracle = torch_factors(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=TOTAL, eta_min=0.1))
    assert factors(name="cosine", warmup=0, final_factor=0.1) == pytest.approx(oracle, rel=1e-9)


def test_linear_is_that_of_torch() -> None:
    oracle = torch_factors(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.25, total_iters=TOTAL))
    assert factors(name="linear", warmup=0, final_factor=0.25) == pytest.approx(oracle, rel=1e-9)


def test_inverse_square_root() -> None:
    """Vaswani et al. 2017, equation 3, with its highest value as 1."""
    oracle = [min(step**-0.5, step * 8**-1.5) * 8**0.5 for step in range(1, TOTAL + 1)]
    assert factors(name="inverse_sqrt", warmup=8) == pytest.approx(oracle, rel=1e-12)


def test_warmup_stable_decay() -> None:
    found = factors(name="wsd", warmup=4, decay=0.25, final_factor=0.5)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:31] == [1.0] * 27
    assert found[31:] == pytest.approx([1 - 0.5 * step / 9 for step in range(1, 10)])


def test_constant() -> None:
    assert factors(name="constant", warmup=4) == [0.25, 0.5, 0.75] + [1.0] * (TOTAL - 3)


@pytest.mark.parametrize("name", [*SHAPES, "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [0, 1, 5, 0.1, 0.99, TOTAL])
def test_each_rises_to_1_falls_and_stays_after_the_end(name: str, warmup: float) -> None:
    config = SchedulerConfig(name=name, warmup=warmup, decay=0.0)
    found = [learning_rate_factor(config, step, TOTAL) for step in range(1, TOTAL + 1)]
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert max(found) <= 1.0
    if warmup:
        assert max(found) == 1.0
    assert (
        learning_rate_factor(config, TOTAL + 1, TOTAL) == learning_rate_factor(config, 10 * TOTAL, TOTAL) == found[-1]
    )
    assert all(math.isfinite(factor) for factor in found)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_very_short_runs(name: str, total: int) -> None:
    assert all(0 <= factor <= 1 for factor in factors(total, name=name))


def test_a_share_is_rounded_to_steps() -> None:
    assert factors(10, name="linear", warmup=0.26)[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
