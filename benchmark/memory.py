"""How much memory a training step needs beside parameters, optimizer state and gradients.

On a CPU the profiler writes down every allocation and release of a tensor, with the time; hooks mark the moments at
which a gradient is whole. On CUDA the allocator keeps the peak, and the same hooks read it and set it back.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

GRADIENT = "whole gradient, bytes: "


def peak_bytes(model: nn.Module, step: Callable[[], object]) -> int:
    """The most bytes that tensors made in `step` hold at once, without those of whole gradients.

    Parameters and optimizer state must exist before, and gradients must not.
    """
    assert all(parameter.grad is None for parameter in model.parameters()), "a gradient of an earlier step is left"
    cuda = next(model.parameters()).is_cuda
    return _cuda_peak(model, step) if cuda else _cpu_peak(model, step)


def _cpu_peak(model: nn.Module, step: Callable[[], object]) -> int:
    def mark(parameter: Tensor) -> None:
        with record_function(f"{GRADIENT}{_gradient_bytes(parameter)}"):
            pass

    with _hooks(model, mark), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
    return peak_of(events)


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


def _cuda_peak(model: nn.Module, step: Callable[[], object]) -> int:
    before = torch.cuda.memory_allocated()
    peak = gradients = 0

    def look(parameter: Tensor) -> None:
        nonlocal peak, gradients
        peak = max(peak, torch.cuda.max_memory_allocated() - before - gradients)
        gradients += _gradient_bytes(parameter)
        torch.cuda.reset_peak_memory_stats()

    torch.cuda.reset_peak_memory_stats()
    with _hooks(model, look):
        step()
    return max(peak, torch.cuda.max_memory_allocated() - before - gradients)


def _gradient_bytes(parameter: Tensor) -> int:
    assert parameter.grad is not None
    return parameter.grad.nbytes


@contextmanager
def _hooks(model: nn.Module, hook: Callable[[Tensor], None]) -> Iterator[None]:
    handles = [
        parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        for parameter in model.parameters()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
