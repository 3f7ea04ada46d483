"""Learning-rate schedules: pure functions from the step to a factor of the highest learning rate."""

import math
from collections.abc import Callable

from pytorch_dl.config.model_config import SchedulerConfig

Shape = Callable[[float, SchedulerConfig], float]  # progress after the warm-up, 0 to 1 -> factor 1 to final_factor


def learning_rate_factor(config: SchedulerConfig, step: int, total_steps: int) -> float:
    """Factor for optimizer step `step` (1-based) of `total_steps`; after the end it stays where it was."""
    step = min(step, total_steps)
    warmup = round(config.warmup * total_steps) if config.warmup < 1 else int(config.warmup)
    if step <= warmup:
        return _one_cycle_rise(step / warmup) if config.name == "onecycle" else step / warmup
    if config.name == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / step)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    return SHAPES[config.name](progress, config)


def _one_cycle_rise(progress: float) -> float:
    """From 1/25 of the highest rate along a cosine (Smith and Topin 2018, as torch.optim.lr_scheduler.OneCycleLR)."""
    return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * progress)) / 2


def _cosine(progress: float, config: SchedulerConfig) -> float:
    return config.final_factor + (1 - config.final_factor) * (1 + math.cos(math.pi * progress)) / 2


def _linear(progress: float, config: SchedulerConfig) -> float:
    return 1 - (1 - config.final_factor) * progress


def _stable_then_decay(progress: float, config: SchedulerConfig) -> float:
    """Constant, then linear over the last `decay` share of the steps (arXiv:2404.06395)."""
    start = 1 - config.decay
    return 1.0 if progress <= start else _linear((progress - start) / config.decay, config)


def _constant(progress: float, config: SchedulerConfig) -> float:
    return 1.0


SHAPES: dict[str, Shape] = {
    "onecycle": _cosine,
    "cosine": _cosine,
    "linear": _linear,
    "wsd": _stable_then_decay,
    "constant": _constant,
}
