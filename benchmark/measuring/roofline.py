"""The roofline (Williams et al. 2009): what a training step asks of the machine, and what the machine has to give.

    FLOP/s that can be had = min(matrix rate, memory bandwidth * FLOPs / bytes moved)

The work of a step is counted (flops.py), not measured: the matrix products of forward and backward pass, of real tokens
only. So padding, and attention over the other sentences of a packed row, are time without FLOPs.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmark.measuring.device_time import synchronize

CALLS = {"cpu": 3, "cuda": 20}  # timed together
MEBIBYTE = 1 << 20


def least_bytes(model: nn.Module) -> int:
    """Bytes that a step of Adam moves at least: 2 * 4 * the parameters' bytes.

    Parameters, gradients and both moments, which are of one size, are read once and written once each. Activations and
    logits come on top, and are as good as free only as far as they stay in the cache.
    """
    return 2 * 4 * sum(parameter.nbytes for parameter in model.parameters())


@dataclass(frozen=True)
class Probe:
    """On what the machine's rates are measured."""

    device: torch.device
    dtype: torch.dtype
    sizes: tuple[int, ...]  # of square matrices
    mebibytes: int  # of each tensor that is copied or added, more than a cache holds


@dataclass
class Roof:
    """The rates of a machine, all repeats, by the operation on which they were measured."""

    flops_per_s: dict[str, list[float]] = field(default_factory=dict)
    bytes_per_s: dict[str, list[float]] = field(default_factory=dict)

    @property
    def matrix_rate(self) -> float:
        """FLOP/s of the fastest matrix product, in the median."""
        return max(map(statistics.median, self.flops_per_s.values()))

    @property
    def bandwidth(self) -> float:
        """Bytes a second, read and written, of the fastest way to move them, in the median."""
        return max(map(statistics.median, self.bytes_per_s.values()))

    def attainable(self, intensity: float) -> float:
        """FLOP/s that can be had with so many FLOPs for each byte moved."""
        return min(self.matrix_rate, self.bandwidth * intensity)

    def measure(self, probe: Probe, repeats: int) -> None:
        """Add some repeats."""
        for size in probe.sizes:
            a, b, product = (torch.ones(size, size, dtype=probe.dtype, device=probe.device) for _ in range(3))
            taken = seconds(partial(torch.mm, a, b, out=product), probe.device, repeats)
            self.flops_per_s.setdefault(f"{size} x {size} x {size}", []).extend(2 * size**3 / s for s in taken)
        numbers = probe.mebibytes * MEBIBYTE // torch.float32.itemsize
        source, other, goal = (torch.ones(numbers, device=probe.device) for _ in range(3))
        for name, tensors, move in (
            ("copy", 2, partial(goal.copy_, source)),
            ("add", 3, partial(torch.add, source, other, out=goal)),
        ):
            taken = seconds(move, probe.device, repeats)
            self.bytes_per_s.setdefault(name, []).extend(tensors * source.nbytes / s for s in taken)

    def as_json(self) -> dict[str, Any]:
        """All that was measured, and what follows."""
        return {
            "matrix_flops_per_s": self.matrix_rate,
            "bandwidth_bytes_per_s": self.bandwidth,
            "repeats": {"flops_per_s": self.flops_per_s, "bytes_per_s": self.bytes_per_s},
        }


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of one call in each repeat; a first call, which sets up the kernel, is not timed."""
    calls, taken = CALLS[device.type], []
    work()
    for _ in range(repeats):
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize()
        taken.append((time.perf_counter() - start) / calls)
    return taken
