"""The optimizer, with weight decay on matrices only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_dl.config.model_config import OptimizerConfig
from pytorch_dl.training.sharding import held, held_parameters


def make_optimizer(model: nn.Module, config: OptimizerConfig, *, learning_rate: float) -> torch.optim.Optimizer:
    """Build the optimizer of `config` over the parameters of `model`."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=config.beta1, fused=True)
    rule = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return rule(groups, lr=learning_rate, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


class WeightAverage:
    """Exponential moving average of a model's weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights; early on faster, so that the start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = [held(self.weights[name]) for name, _ in model.named_parameters()]
        torch._foreach_lerp_(average, held_parameters(model), 1 - decay)

    @contextmanager
    def in_use(self, model: nn.Module) -> Iterator[None]:
        """Meanwhile the model has the average's weights."""
        self.swap(model)
        try:
            yield
        finally:
            self.swap(model)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average and the model's weights; twice is nothing."""
        for name, parameter in model.named_parameters():
            own, average = held(parameter), held(self.weights[name])
            kept = own.detach().clone()
            own.copy_(average)
            average.copy_(kept)


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
