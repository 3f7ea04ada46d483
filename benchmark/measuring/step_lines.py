"""Where a training step's time goes on a CPU, line by line, seen from within: no profiler, which would itself cost.

The code that torch.compile has made is a list of calls: matrix products, kernels, buffers. Each is wrapped in a clock
where it stands, and so are the loss, the norm of the gradients and the optimizer; what remains of forward and backward
pass is the code around them. On a CPU a call has done its work when it returns.
"""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple
from unittest.mock import patch

import pytorch_dl.training.loss as loss
import pytorch_dl.training.objective as objective
import pytorch_dl.training.update as update

FORWARD, BACKWARD, STEP = "forward", "backward", "step"  # what holds other lines
LOSS, NORM, OPTIMIZER, LAYERS = "loss", "norm of the gradients", "optimizer", "compiled layers"
PRODUCTS = {"mm": "matrix products of linear layers", "bmm": "matrix products of attention"}
BUFFERS = ("empty_strided_cpu", "reinterpret_tensor", "assert_size_stride")
KERNELS = {  # by what the name of a kernel tells of the operations in it; the first that fits
    "gate of the feed-forward layer, with its dropout": "silu|gelu|relu",
    "softmax of attention, with its mask": "softmax",
    "residual sum with its dropout, and norm": "rsqrt|mean|pow|bitwise_xor",
    "rotation of queries and keys, and turning heads": "cat|transpose",
    "sums over tokens, of gradients of norms": "sum",
    "weights to bf16, their gradients to fp32": "to_copy",
}
OTHER_KERNELS = "other kernels"
BUFFER = "buffers of compiled layers"
INNER = (*PRODUCTS.values(), *KERNELS, OTHER_KERNELS, BUFFER)  # of compiled layers, in both passes


class Line(NamedTuple):
    """A part of a step: its mean time, and how often it comes."""

    seconds: float
    calls: float


@dataclass
class Clocks:
    """Seconds and calls of each name so far."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    going_forward: bool = False  # within a compiled layer
    inner_forward: float = 0.0  # seconds of the inner lines meanwhile

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a clock around it."""
        clock = time.perf_counter

        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            self.going_forward |= name == LAYERS
            start = clock()
            result = function(*args, **options)
            taken = clock() - start
            self.seconds[name] += taken
            self.calls[name] += 1
            if name == LAYERS:
                self.going_forward = False
            elif self.going_forward:
                self.inner_forward += taken
            return result

        return timed


@contextmanager
def clocks_in(model: Any) -> Iterator[Clocks]:
    """Meanwhile all that a step of a compiled model consists of has a clock around it; compiled it must be already."""
    from torch._inductor.codecache import PyCodeCache
    from torch._inductor.select_algorithm import extern_kernels

    clocks = Clocks()
    with ExitStack() as stack:

        def watch(place: Any, attribute: str, name: str) -> None:
            stack.enter_context(patch.object(place, attribute, clocks.around(name, getattr(place, attribute))))

        for module in list(PyCodeCache.modules):
            for attribute in [name for name in vars(module) if name.startswith("cpp_fused") or name in BUFFERS]:
                watch(module, attribute, BUFFER if attribute in BUFFERS else kind_of(attribute))
        for attribute, name in PRODUCTS.items():
            watch(extern_kernels, attribute, name)
        compiled = {layer: clocks.around(LAYERS, run) for layer, run in model._compiled.items()}
        stack.enter_context(patch.object(model, "_compiled", compiled))
        watch(loss, "_forward_chunks", LOSS)
        watch(objective, "batch_hidden", FORWARD)
        watch(update.WeightUpdate, "backward", BACKWARD)
        watch(update, "gradient_norm", NORM)
        watch(update.WeightUpdate, "_step", OPTIMIZER)
        yield clocks


def kind_of(kernel: str) -> str:
    """What a kernel with this name does."""
    return next((kind for kind, pattern in KERNELS.items() if re.search(pattern, kernel)), OTHER_KERNELS)


def lines_of(model: Any, steps: Sequence[Callable[[], object]]) -> dict[str, Line]:
    """The lines of these steps, in the mean; they add up to `STEP`, which is the last."""
    with clocks_in(model) as clocks:
        start = time.perf_counter()
        for step in steps:
            step()
        clocks.seconds[STEP] = time.perf_counter() - start
    seconds, calls = clocks.seconds, clocks.calls
    inner = [name for name in INNER if calls[name]]
    apart = (LOSS, NORM, OPTIMIZER)
    calling = seconds[LAYERS] - clocks.inner_forward
    rest = {
        "embeddings, masks, dropout keys, last norms": seconds[FORWARD] - seconds[LAYERS],
        "calling compiled layers from Python": calling,
        "backward pass of embeddings and last norms, sums of gradients, calling compiled layers": seconds[LAYERS]
        + seconds[BACKWARD]
        - sum(seconds[name] for name in inner)
        - calling,
        "around the passes: counting, seeds, reading, checks": seconds[STEP]
        - seconds[FORWARD]
        - seconds[BACKWARD]
        - sum(seconds[name] for name in apart),
    }
    found = {name: Line(seconds[name] / len(steps), calls[name] / len(steps)) for name in (*inner, *apart)}
    found |= {name: Line(taken / len(steps), 1) for name, taken in rest.items()}
    return {**found, STEP: Line(seconds[STEP] / len(steps), 1)}
