"""What a warm step of training costs: compilations and waits of the host, and a profile of its kernels."""

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.contenders.ours import Ours
from benchmark.gpu_parts.scale import Bench, Found
from benchmark.gpu_parts.steps import COMPILED, EAGER, Entry, batches_of, side_of
from benchmark.measuring.compilation import each_shape_compiled
from benchmark.measuring.device_time import synchronize
from benchmark.measuring.machine import ROOT
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import update
from pytorch_dl.training.traces import covered, events_of

WARMUP_STEPS = 6  # past the second shape and the second epoch of the batches
COUNTED_STEPS = 4
COSTLIEST = 30
ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace's events
ON_CPU = ("cpu_op",)
aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.is_nonzero, aten.masked_select, aten.equal, aten._unique2}
METHODS = {torch.Tensor.cpu, torch.Tensor.tolist, torch.Tensor.numpy}  # which need no operation on a CPU
INDEXED = {aten.index, aten.index_put_, aten._index_put_impl_}


@contextmanager
def warm_side(bench: Bench) -> Iterator[tuple[Ours, list[Batch]]]:
    """Our trainer, compiled where that can be, and its batches, after the warm-up."""
    preset = next(iter(bench.scale.presets))
    entry = Entry(preset, COMPILED if bench.compiled else EAGER, bench.scale.counted_tokens)
    with ExitStack() as stack:
        if entry.compiled:
            stack.enter_context(each_shape_compiled())
        side, rows = side_of(entry, bench), batches_of(entry, bench)
        assert isinstance(side, Ours)
        for index in range(WARMUP_STEPS):
            side.step(rows[index % len(rows)])
        synchronize()
        yield side, [rows[index % len(rows)] for index in range(COUNTED_STEPS)]


def counts(bench: Bench, found: Found) -> None:
    """How often a step, once warm, is compiled anew and makes the host wait for the device, and where.

    On a CPU, which is not waited for, what is counted is what would wait for a GPU: reading a tensor, with the layers
    as they are written; compiled ones read nothing, or they would fall into parts, which the compiler counts.
    """
    with warm_side(bench) as (side, rows):
        before, waits = compiler_counts(), Counter[str]()
        for batch in rows:
            side.step(batch)
        after = compiler_counts()
        with synchronisations(waits) if bench.on_gpu else host_reads(waits, side.model):
            begun = [side.begin_step(batch) for batch in rows]
        for reading in begun:
            reading.read()
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    found |= {
        "steps": len(rows),
        "compiled": bench.compiled,
        "recompilations_per_step": changed.get("stats.unique_graphs", 0) / len(rows),
        "compiler_counters_that_moved": changed,
        "synchronisations_per_step": sum(waits.values()) / len(rows),
        "synchronisations_by_place": {place: number / len(rows) for place, number in waits.most_common()},
    }
    bench.say(f"  {found}")


def compiler_counts() -> Counter[str]:
    """All that the compiler counts."""
    from torch._dynamo.utils import counters

    return Counter({f"{group}.{name}": n for group, numbers in counters.items() for name, n in numbers.items()})


@contextmanager
def synchronisations(waits: Counter[str]) -> Iterator[None]:
    """Count by place in this project the warnings of waiting for the GPU."""

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            waits[innermost_place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")


@contextmanager
def host_reads(reads: Counter[str], model: OptimizedTransformer) -> Iterator[None]:
    """Count by place in this project the calls that need a tensor's numbers, while a CPU is trained on as a GPU is."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # An index that is a mask reads how many of its numbers are true.
            masked = any(part.dtype == torch.bool for part in tree_leaves(args[1:2]) if torch.is_tensor(part))
            if func.overloadpacket in READS or (func.overloadpacket in INDEXED and masked):
                reads[innermost_place()] += 1
            return func(*args, **(kwargs or {}))

    class WatchMethods(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            copied = func is torch.Tensor.to and "cpu" in args and not (kwargs or {}).get("non_blocking")
            if copied or func in METHODS:
                reads[innermost_place()] += 1
            return func(*args, **(kwargs or {}))

    model.forget_compiled()
    late = mock.patch.object(update, "LATE_DEVICES", (*update.LATE_DEVICES, "cpu"))
    with late, Watch(), WatchMethods():
        yield


def innermost_place() -> str:
    """File, line and text of the innermost call from the package."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT / "pytorch_dl"):
            return f"{path.relative_to(ROOT)}:{frame.lineno}: {frame.line}"
    return "outside the package"


def costs(bench: Bench, found: Found) -> None:
    """The costliest kernels of a step, and how much of it the GPU is idle."""
    with warm_side(bench) as (side, rows):
        start = time.perf_counter()
        for batch in rows:
            side.step(batch)
        synchronize()
        found["step_ms"] = 1000 * (time.perf_counter() - start) / len(rows)
        found["steps"], found["compiled"] = len(rows), bench.compiled
        events = traced(side.step, rows, bench)
    found |= cost_table(events, steps=len(rows))
    if bench.on_gpu:
        found["idle_without_profiler"] = 1 - found["busy_ms"] / found["step_ms"]
    for kernel in found["kernels"]:
        bench.say(f"  {100 * kernel['share']:5.1f} %  {kernel['ms']:8.3f} ms  {kernel['calls']:6.1f}  {kernel['name']}")
    bench.say(f"  busy {found['busy_ms']:.2f} ms of a step of {found['step_ms']:.2f} ms")


def traced(step: Callable[[Batch], float], rows: list[Batch], bench: Bench) -> list[dict[str, Any]]:
    """What the device did in some steps, as a trace's events. Of the host nothing is noted: that slows it down."""
    for some in (rows[:1], rows):  # the first time, the profiler itself takes long to begin
        with profile(activities=[ProfilerActivity.CUDA if bench.on_gpu else ProfilerActivity.CPU]) as profiler:
            for batch in some:
                step(batch)
            synchronize()
    return [event for event in events_of(profiler) if event.get("cat") in (ON_GPU if bench.on_gpu else ON_CPU)]


def cost_table(events: list[dict[str, Any]], *, steps: int) -> Found:
    """Milliseconds and calls in a step by kernel; times of calls within calls, as a CPU has them, count twice."""
    assert events, "the profiler saw nothing that the device did"
    spans = [(float(event["ts"]), float(event["ts"]) + float(event["dur"])) for event in events]
    span = max(end for _, end in spans) - min(begin for begin, _ in spans)
    busy = covered(spans)
    taken, calls = Counter[str](), Counter[str]()
    for event in events:
        taken[event["name"]] += event["dur"]
        calls[event["name"]] += 1
    return {
        "traced_ms": span / steps / 1000,
        "busy_ms": busy / steps / 1000,
        "idle": 1 - busy / span,
        "kernels": [
            {"name": name[:160], "ms": spent / steps / 1000, "share": spent / span, "calls": calls[name] / steps}
            for name, spent in taken.most_common(COSTLIEST)
        ],
    }
