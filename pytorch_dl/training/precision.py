"""Which number format the matrix products use on this device."""

import contextlib
import math
import time
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
TIMED_SECONDS, TIMED_ROUNDS = 0.3, 4
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(setting: bool | Literal["bf16", "fp16"], device: torch.device) -> Precision:
    """Resolve `training.mixed_precision`: true means what the device does fastest and safely."""
    if isinstance(setting, str):
        return setting
    if not setting:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _bf16_pays() else "fp32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """The context in which the forward pass runs."""
    if precision == "fp32":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = torch.autocast(device.type, dtype=DTYPES[precision])
    return context


def _bf16_pays() -> bool:
    """Time both formats: a CPU without bfloat16 instructions emulates them, and is a hundred times slower.

    By turns and for a while, on one thread: what else the machine does must not decide a training, and on a busy one
    several threads hardly ever run at once.
    """
    fastest, threads = {torch.bfloat16: math.inf, torch.float32: math.inf}, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        end, rounds = time.perf_counter() + TIMED_SECONDS, 0
        while rounds < TIMED_ROUNDS or time.perf_counter() < end:
            for dtype in fastest:
                fastest[dtype] = min(fastest[dtype], _seconds(dtype))
            rounds += 1
    finally:
        torch.set_num_threads(threads)
    return fastest[torch.bfloat16] < 0.8 * fastest[torch.float32]


def _seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(256, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start
