"""What torch's profiler wrote down, read as events: who took how long, within whom. Times are microseconds."""

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Event = dict[str, Any]
MEMORY = "[memory]"  # the name of an allocation or release
NO_NOTES = "99"  # of the tracer below torch's profiler, which tells stderr that it starts and stops


@dataclass
class Call:
    """An event of one thread, and the calls around it, the outermost first."""

    event: Event
    within: tuple[str, ...]
    own: float  # of its time, what no call within it took

    @property
    def name(self) -> str:
        """What was called."""
        return str(self.event["name"])


def new_profiler(device: torch.device, *, memory: bool = False) -> profile:
    """A profiler that is still to be started; with `memory` it writes down allocations and releases too."""
    os.environ.setdefault("KINETO_LOG_LEVEL", NO_NOTES)
    cuda = [ProfilerActivity.CUDA] if device.type == "cuda" else []
    return profile(activities=[ProfilerActivity.CPU, *cuda], profile_memory=memory)


def events_of(profiler: profile) -> list[Event]:
    """The events of a profile that has ended."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "trace.json"
        profiler.export_chrome_trace(str(path))
        found: list[Event] = json.loads(path.read_bytes())["traceEvents"]
    return found


def nested(events: Iterable[Event]) -> list[Call]:
    """The calls of one thread, and what happened in a moment (without a duration), in the order of their beginning."""
    found: list[Call] = []
    around: list[tuple[Call, float]] = []  # with their ends
    for event in sorted(events, key=lambda event: (float(event["ts"]), -float(event.get("dur", 0)))):
        start, taken = float(event["ts"]), float(event.get("dur", 0))
        while around and around[-1][1] <= start:
            around.pop()
        call = Call(event, tuple(outer.name for outer, _ in around), taken)
        if around:
            around[-1][0].own -= taken
        found.append(call)
        if "dur" in event:
            around.append((call, start + taken))
    return found


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
