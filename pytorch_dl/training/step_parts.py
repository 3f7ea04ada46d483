"""The parts of a training step, by the names under which a profile shows them; and what may look at each step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.profiler import record_function

DATA, FORWARD, BACKWARD, OPTIMIZER = "data", "forward", "backward", "optimizer"
REPLAY = "forward and backward, replayed"  # of a CUDA graph
PARTS = (DATA, FORWARD, BACKWARD, REPLAY, OPTIMIZER)

# A step's number -> what is entered around it; it must not change the bits. StopNow raised there ends the training.
Watch = Callable[[int], AbstractContextManager[object]]


def part(name: str) -> AbstractContextManager[object]:
    """Name what is done inside for a profile; while nobody profiles, it is nothing."""
    return record_function(name) if torch._C._autograd._profiler_enabled() else nullcontext()


def unwatched(step: int) -> AbstractContextManager[object]:
    """Nobody looks."""
    return nullcontext()
