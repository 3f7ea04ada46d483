"""How much memory a training step needs beside parameters, optimizer state and gradients.

On a CPU the profiler writes down every allocation and release of a tensor, with the time; hooks mark the moments at
which a gradient is whole. On CUDA the allocator keeps the peak, and the same hooks read it and set it back.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

GRADIENT = "whole gradient, bytes: "


class Peak(NamedTuple):
    """The most bytes that live tensors hold at once during a step."""

    activations: int  # without parameters, gradients that are whole, and optimizer state
    total: int  # with them


def peak_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> Peak:
    """Peak of a training step; optimizer state must exist before, and gradients must not."""
    assert all(parameter.grad is None for parameter in model.parameters()), "a gradient of an earlier step is left"
    kept = sum(parameter.nbytes for parameter in model.parameters())
    kept += sum(
        value.nbytes for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    )
    cuda = next(model.parameters()).is_cuda
    activations, made = _cuda_peak(model, step) if cuda else _cpu_peak(model, step)
    return Peak(activations, kept + made)


def _cpu_peak(model: nn.Module, step: Callable[[], object]) -> tuple[int, int]:
    def mark(parameter: Tensor) -> None:
        with record_function(f"{GRADIENT}{_gradient_bytes(parameter)}"):
            pass

    with _hooks(model, mark), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    return peak_of(events), peak_of(event for event in events if event.get("name") == "[memory]")


def peak_of(events: Iterable[dict[str, Any]]) -> int:
    """The peak of a trace: the running sum of allocations and releases, less the gradients that are whole by then."""
    changes = []
    for event in events:
        name = str(event.get("name"))
        if name == "[memory]":
            changes.append((event["ts"], int(event["args"]["Bytes"])))
        elif name.startswith(GRADIENT):
            changes.append((event["ts"], -int(name.removeprefix(GRADIENT))))
    live = peak = 0
    for _, change in sorted(changes):
        live += change
        peak = max(peak, live)
    assert peak, "the profiler wrote down no allocation"
    return peak


def _cuda_peak(model: nn.Module, step: Callable[[], object]) -> tuple[int, int]:
    before = torch.cuda.memory_allocated()
    peak = total = gradients = 0

    def look(parameter: Tensor | None) -> None:
        nonlocal peak, total, gradients
        made = torch.cuda.max_memory_allocated() - before
        peak, total = max(peak, made - gradients), max(total, made)
        gradients += _gradient_bytes(parameter) if parameter is not None else 0
        torch.cuda.reset_peak_memory_stats()

    torch.cuda.reset_peak_memory_stats()
    with _hooks(model, look):
        step()
    look(None)
    return peak, total


def _gradient_bytes(parameter: Tensor) -> int:
    assert parameter.grad is not None
    return parameter.grad.nbytes


@contextmanager
def _hooks(model: nn.Module, hook: Callable[[Tensor], None]) -> Iterator[None]:
    handles = [
        parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
