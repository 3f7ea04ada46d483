"""What live tensors hold at the peak of a step: of a trace that is written out, and of steps that are known."""

import pytest
import torch
from torch import nn

from pytorch_dl.training.live_memory import GRADIENT, LiveMemory, Peak, peak_bytes, peak_of


def test_peak_of_a_trace():
    def memory(ts: float, change: int) -> dict:
        return {"name": "[memory]", "ts": ts, "args": {"Bytes": change}}

    gradient = {"name": f"{GRADIENT}60 1234", "ts": 3.5}
    later = [memory(5, -60), memory(4, 90)]
    events = [{"name": "aten::mm", "ts": 0.5}, memory(1, 100), memory(2, -100), memory(3, 60)]
    assert peak_of([*events, *later]) == 150
    assert peak_of([*events, gradient, *later]) == 100


def test_peak_of_a_step_leaves_whole_gradients_out():
    size = 1 << 20
    model = nn.ParameterList(nn.Parameter(torch.ones(size)) for _ in range(4))
    optimizer = torch.optim.SGD(model.parameters())
    peak = peak_bytes(model, optimizer, lambda: sum(p.sum() for p in model).backward())
    assert 4 * size <= peak.activations < 5 * size  # one gradient in the making, three whole or not begun
    assert 8 * 4 * size <= peak.total < 8 * 4 * size + size  # four parameters and their gradients
    assert all(p.grad is not None for p in model)
    model.zero_grad(set_to_none=True)

    def step() -> None:
        held = torch.ones(3, size)
        del held
        torch.ones(2, size)

    assert peak_bytes(model, optimizer, step).activations == 3 * 4 * size


def test_peak_wants_no_gradient_of_an_earlier_step():
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(AssertionError, match="a gradient of an earlier step is left"):
        peak_bytes(model, torch.optim.SGD(model.parameters()), lambda: None)


def test_gradients_of_earlier_batches_are_no_activations_and_are_left_out_once():
    size = 1 << 20
    weight = nn.Parameter(torch.ones(size))
    model = nn.ParameterList([weight])

    def peak(*rows: int) -> Peak:
        model.zero_grad(set_to_none=True)
        with LiveMemory(model, torch.optim.SGD(model.parameters())) as live:
            for number in rows:
                (weight * torch.ones(number, size)).sum().backward()
        assert live.events
        return live.peak

    alone, last = peak(3), peak(1, 1, 3)
    assert last.activations == pytest.approx(alone.activations, rel=0.05)
    assert last.total == pytest.approx(alone.total + 4 * size, rel=0.05)  # the gradient is there already
