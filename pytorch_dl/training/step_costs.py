"""Where the time and memory of training steps went, read from a trace: by part of the step, and by kind of operation.

On a CPU times are of the thread that trains, each operation without those that it calls. On a GPU they are of its
kernels; what it waited for the host is a line of its own.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytorch_dl.training.live_memory import gradient_mark
from pytorch_dl.training.step_parts import DATA, OPTIMIZER, PARTS
from pytorch_dl.training.traces import MEMORY, Call, Event, covered, nested

STEP = "training step"
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace's events
ASKING = ("cuda_runtime", "cuda_driver")  # of the calls by which the host asks for them
COSTLIEST, NAME_LENGTH = 12, 80
LOSS = "_LinearCrossEntropy"  # the function, and the beginning of its backward pass's name
IDLE, PYTHON, REST = "waiting for the host", "Python, autograd and the rest", "reading and writing down"
MAKERS_OF_TENSORS = re.compile(r"aten::(empty|resize|zeros|ones|full|new_)")  # called by what needs one
# What the name of an operation or a GPU's kernel tells, the first that fits.
KINDS = {
    "attention": r"attention|flash|softmax|bmm|fmha",
    "matrix products": r"aten::(mm|addmm|matmul|linear|_linear)|mkl|gemm|cutlass|cublas|nvjet|xmma",
    "compiled operations": r"CompiledFunction|CompiledFxGraph|Torch-Compiled|triton|cpp_fused|inductor|TorchDynamo|AOT",
    "embeddings": r"embedding|index_select|aten::index|gather|scatter",
    "copies and casts": r"aten::(to|_to_copy|copy_|clone|contiguous|cat|stack|split)|memcpy|memset|CatArray",
    "elementwise and sums": r"aten::|elementwise|reduce|vectorized|multi_tensor",
}


@dataclass(frozen=True)
class Share:
    """One line of a table: milliseconds or bytes, of a step in the mean."""

    name: str
    amount: float
    share: float


@dataclass(frozen=True)
class StepCosts:
    """Of the traced steps in the mean."""

    steps: int
    step_ms: float
    parts: list[Share]
    kinds: list[Share]
    operations: list[Share]
    """The costliest by name: operations, or a GPU's kernels."""


def costs_of(events: list[Event]) -> StepCosts:
    """Read a trace in which each step is one event called `STEP`."""
    marks = [event for event in events if event.get("name") == STEP and event.get("cat") == "user_annotation"]
    assert marks, "no step was traced"
    total = sum(float(mark["dur"]) for mark in marks)
    calls = _calls(events, marks[0]["tid"])
    parts = defaultdict[str, float](float)
    for call in calls:
        if call.name in PARTS and STEP in call.within and not set(call.within) & set(PARTS):
            parts[call.name] += float(call.event["dur"])
    parts[REST] = total - sum(parts.values())
    kernels = _kernels(events, marks)
    inside = [call for call in calls if call.name == STEP or STEP in call.within]
    kinds = _kernel_times(kernels, total) if kernels else _sums((kind_of(call), call.own) for call in inside)
    operations = _sums(
        [(str(kernel["name"]), float(kernel["dur"])) for kernel in kernels]
        or [(call.name, call.own) for call in inside if call.name not in (STEP, *PARTS)]
    )
    tables = [_shares(amounts, total, len(marks)) for amounts in (parts, kinds, operations)]
    return StepCosts(len(marks), total / len(marks) / 1000, tables[0], tables[1], tables[2][:COSTLIEST])


def held_at_the_peak(events: list[Event]) -> list[Share]:
    """Bytes of activations that live at the peak of one step on a CPU, by what made them; whole gradients are not."""
    thread = next(event["tid"] for event in events if gradient_mark(event))
    live: dict[int, tuple[str, int]] = {}  # by address: kind and bytes
    held = most = 0
    best: dict[int, tuple[str, int]] = {}
    for call in nested(event for event in events if event.get("tid") == thread and "ts" in event):
        if call.event["name"] == MEMORY:
            address, size = call.event["args"]["Addr"], int(call.event["args"]["Bytes"])
            if size > 0:
                live[address] = kind_of(call, allocates=True), size
            held += size if size > 0 else -live.pop(address, ("", 0))[1]
        elif mark := gradient_mark(call.event):
            held -= live.pop(mark[1], ("", 0))[1]
        if held > most:
            most, best = held, dict(live)
    return _shares(_sums(best.values()), most, 1, scale=1)


def kind_of(call: Call, *, allocates: bool = False) -> str:
    """What a call does; of an allocation, what the innermost call around it does."""
    around = (*call.within, call.name)
    if DATA in around:
        return DATA
    if OPTIMIZER in around:
        return OPTIMIZER
    if any(LOSS in name for name in around):
        return "projection and loss"
    names = [n for n in reversed(call.within) if not MAKERS_OF_TENSORS.match(n)] if allocates else [call.name]
    return next((kind for name in names if (kind := _kind(name))), PYTHON)


def _kind(name: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), None)


def _calls(events: Iterable[Event], thread: object) -> list[Call]:
    return nested(event for event in events if event.get("tid") == thread and event.get("ph") == "X")


def _kernels(events: list[Event], marks: list[Event]) -> list[Event]:
    """What a GPU does that was asked for in the steps, also where it does it after them."""
    steps = [(float(mark["ts"]), float(mark["ts"]) + float(mark["dur"])) for mark in marks]
    asked = {_number(event): float(event["ts"]) for event in events if event.get("cat") in ASKING}
    kernels = [event for event in events if event.get("cat") in ON_GPU]
    times = [asked.get(_number(kernel), float(kernel["ts"])) for kernel in kernels]
    return [k for k, time in zip(kernels, times, strict=True) if any(begin <= time < end for begin, end in steps)]


def _number(event: Event) -> object:
    """The same of a call and of the kernels that it asks for; of one that tells none, another each time."""
    return event.get("args", {}).get("correlation", id(event))


def _sums(amounts: Iterable[tuple[str, float]]) -> dict[str, float]:
    found = defaultdict[str, float](float)
    for name, amount in amounts:
        found[name] += amount
    return found


def _kernel_times(kernels: list[Event], total: float) -> dict[str, float]:
    found = _sums((_kind(str(kernel["name"])) or "other kernels", float(kernel["dur"])) for kernel in kernels)
    spans = [(float(kernel["ts"]), float(kernel["ts"]) + float(kernel["dur"])) for kernel in kernels]
    found[IDLE] = max(0.0, total - covered(spans))
    return found


def _shares(amounts: Mapping[str, float], total: float, steps: int, *, scale: float = 1000) -> list[Share]:
    rows = sorted(amounts.items(), key=lambda item: -item[1])
    return [Share(name[:NAME_LENGTH], amount / steps / scale, amount / total) for name, amount in rows if amount > 0]
