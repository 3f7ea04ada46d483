"""The time of a call on a device, and the error of what it computed."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

WARMUP = 3


def median_seconds(work: Callable[[], object], device: torch.device, *, repeats: int = 15) -> float:
    """Seconds of one call in the median, by the events of the GPU; calls before it, which set up kernels, not timed."""
    for _ in range(WARMUP):
        work()
    return median(_gpu_seconds(work, repeats) if device.type == "cuda" else _cpu_seconds(work, repeats))


def synchronize() -> None:
    """Wait until the GPU has done what it was told, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|, Euclidean, in float64."""
    found, wanted = (tensor.detach().to(found.device, torch.float64) for tensor in (found, wanted))
    return float((found - wanted).norm() / wanted.norm())


def _gpu_seconds(work: Callable[[], object], repeats: int) -> list[float]:
    event: Callable[..., Any] = torch.cuda.Event
    marks = [[event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for begin, end in marks:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in marks]


def _cpu_seconds(work: Callable[[], object], repeats: int) -> list[float]:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken
