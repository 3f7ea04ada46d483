"""The optimizer's groups, and the moving average against NumPy."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from pytorch_dl.config.model_config import OptimizerConfig
from pytorch_dl.training.optimizer import WeightAverage, gradient_norm, make_optimizer


def test_weight_decay_is_for_matrices_only() -> None:
    model = tiny_model(bias=True, norm_type="layernorm")
    decayed, plain = make_optimizer(model, OptimizerConfig(weight_decay=0.3), learning_rate=0.1).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2}
    assert {p.ndim for p in plain["params"]} == {1}
    in_groups = [id(p) for group in (decayed, plain) for p in group["params"]]
    assert sorted(in_groups) == sorted(id(p) for p in model.parameters()), "each once, tied ones too"


def test_frozen_parameters_are_left_out() -> None:
    model = tiny_model()
    model.src_embedding.weight.requires_grad_(False)
    groups = make_optimizer(model, OptimizerConfig(), learning_rate=0.1).param_groups
    assert all(p is not model.src_embedding.weight for group in groups for p in group["params"])


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_settings_arrive(name: str, kind: str) -> None:
    config = OptimizerConfig(name=name, beta1=0.7, beta2=0.8, eps=1e-5)
    optimizer = make_optimizer(tiny_model(), config, learning_rate=0.25)
    assert type(optimizer).__name__ == kind
    for group in optimizer.param_groups:
        assert group["lr"] == 0.25
        if name == "sgd":
            assert group["momentum"] == 0.7
        else:
            assert (group["betas"], group["eps"]) == ((0.7, 0.8), 1e-5)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_updates_are_those_of_torch_with_the_same_groups(name: str) -> None:
    ours, theirs = (tiny_model(dtype=torch.float64) for _ in range(2))
    config = OptimizerConfig(name=name, weight_decay=0.1)
    optimizer = make_optimizer(ours, config, learning_rate=0.01)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    oracle = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.98), foreach=False),
        "adam": lambda: torch.optim.Adam(groups, lr=0.01, betas=(0.9, 0.98), foreach=False),
        "sgd": lambda: torch.optim.SGD(groups, lr=0.01, momentum=0.9, foreach=False),
    }[name]()
    for step in range(3):
        for model, rule in ((ours, optimizer), (theirs, oracle)):
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = torch.full_like(parameter, 0.1 * (number + step - 2))
            rule.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_moving_average_is_that_of_numpy() -> None:
    model = tiny_model(dtype=torch.float64)
    average = WeightAverage(model, 0.6)
    names = list(average.weights)
    oracle = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    for step in range(1, 12):
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                parameter.mul_(0.9).add_(number / step)
        average.update(model, step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            oracle[name] = decay * oracle[name] + (1 - decay) * parameter.detach().numpy()
    assert len(names) > 5
    for name in names:
        np.testing.assert_allclose(average.weights[name].numpy(), oracle[name], rtol=1e-12)


def test_swapping_twice_is_nothing() -> None:
    model = tiny_model()
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    raw = {name: p.detach().clone() for name, p in model.named_parameters()}
    kept = {name: p.clone() for name, p in average.weights.items()}
    average.swap(model)
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())
    assert all(torch.equal(average.weights[name], raw[name]) for name in raw)
    average.swap(model)
    assert all(torch.equal(p, raw[name]) for name, p in model.named_parameters())
    assert all(torch.equal(average.weights[name], kept[name]) for name in raw)


def test_gradient_norm() -> None:
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True), torch.zeros(1)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    assert gradient_norm(parameters) == 5.0
