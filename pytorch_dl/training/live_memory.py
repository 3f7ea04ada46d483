"""How much memory a training step needs beside parameters, optimizer state and gradients.

On a CPU the profiler writes down every allocation and release of a tensor, with the time; hooks mark the moments at
which a gradient is whole. On CUDA the allocator keeps the peak, and the same hooks read it and set it back.
"""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from pytorch_dl.training.traces import MEMORY, Event, events_of, new_profiler

GRADIENT = "whole gradient: "  # then its bytes and its address


class Peak(NamedTuple):
    """The most bytes that live tensors hold at once during a step."""

    activations: int  # without parameters, gradients that are whole, and optimizer state
    total: int  # with them


def peak_bytes(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[], object]) -> Peak:
    """Peak of a training step; optimizer state must exist before, and gradients must not."""
    with LiveMemory(model, optimizer) as live:
        step()
    return live.peak


class LiveMemory:
    """While entered, for one training step, watches what live tensors hold; afterwards `peak` tells the most.

    On a CPU `events` are then the trace. `recorded` passes have their gradients from `torch.autograd.grad`.
    """

    peak: Peak

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, recorded: bool = False) -> None:
        self.model, self.optimizer, self.recorded = model, optimizer, recorded
        self.events: list[Event] = []
        self._hooks: list[Any] = []
        self._whole: set[int] = set()  # of several batches the first makes the gradients
        device = next(model.parameters()).device
        self._meter: _CpuMeter | _CudaMeter = _CudaMeter() if device.type == "cuda" else _CpuMeter()

    def __enter__(self) -> Self:
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        assert all(p.grad is None for p in parameters), "a gradient of an earlier step is left"
        self._hooks = [self._hook(parameter) for parameter in parameters]
        self._meter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._meter.stop()
        if error is None:
            activations, made = self._meter.peaks()
            self.events = self._meter.events
            self.peak = Peak(activations, weight_bytes(self.model) + optimizer_bytes(self.optimizer) + made)

    def _hook(self, parameter: Tensor) -> Any:
        def of_its_own(gradient: Tensor) -> None:
            self._look(parameter, gradient)

        def of_the_sum(_: Tensor) -> None:
            assert parameter.grad is not None
            self._look(parameter, parameter.grad)

        if self.recorded:
            return parameter.register_hook(of_its_own)  # type: ignore[no-untyped-call]
        return parameter.register_post_accumulate_grad_hook(of_the_sum)  # type: ignore[no-untyped-call]

    def _look(self, parameter: Tensor, gradient: Tensor) -> None:
        if id(parameter) not in self._whole:
            self._whole.add(id(parameter))
            self._meter.look(gradient)


class _CpuMeter:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self._profiler = new_profiler(torch.device("cpu"), memory=True)

    def start(self) -> None:
        self._profiler.start()

    def look(self, gradient: Tensor) -> None:
        with record_function(f"{GRADIENT}{gradient.nbytes} {gradient.untyped_storage().data_ptr()}"):
            pass

    def stop(self) -> None:
        self._profiler.stop()

    def peaks(self) -> tuple[int, int]:
        self.events = events_of(self._profiler)
        return peak_of(self.events), peak_of(event for event in self.events if event.get("name") == MEMORY)


class _CudaMeter:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self._peak = self._total = self._gradients = 0

    def start(self) -> None:
        self._before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()

    def look(self, gradient: Tensor | None) -> None:
        made = torch.cuda.max_memory_allocated() - self._before
        self._peak, self._total = max(self._peak, made - self._gradients), max(self._total, made)
        self._gradients += gradient.nbytes if gradient is not None else 0
        torch.cuda.reset_peak_memory_stats()

    def stop(self) -> None:
        self.look(None)

    def peaks(self) -> tuple[int, int]:
        return self._peak, self._total


def weight_bytes(model: nn.Module) -> int:
    """Of all parameters, tied ones counted once."""
    return sum(parameter.nbytes for parameter in model.parameters())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Of all that an optimizer keeps of the weights."""
    states = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in states if torch.is_tensor(value))


def gradient_mark(event: Event) -> tuple[int, int] | None:
    """Bytes and address of the gradient that is whole from this event on; None for another event."""
    name = str(event.get("name"))
    if not name.startswith(GRADIENT):
        return None
    size, address = name.removeprefix(GRADIENT).split()
    return int(size), int(address)


def peak_of(events: Iterable[Event]) -> int:
    """The peak of a trace: the running sum of allocations and releases, less the gradients that are whole by then."""
    changes = []
    for event in events:
        if event.get("name") == MEMORY:
            changes.append((event["ts"], int(event["args"]["Bytes"])))
        elif mark := gradient_mark(event):
            changes.append((event["ts"], -mark[0]))
    live = peak = 0
    for _, change in sorted(changes):
        live += change
        peak = max(peak, live)
    assert peak, "the profiler wrote down no allocation"
    return peak
