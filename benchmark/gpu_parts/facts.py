"""Facts about a machine with a GPU: versions, clocks, and the rates that it reaches."""

import importlib.metadata
import subprocess
from functools import partial

import torch

from benchmark.gpu_parts.scale import Bench, Found
from benchmark.measuring.device_time import median_seconds
from benchmark.measuring.machine import machine


def facts(bench: Bench, found: Found) -> None:
    """What the machine is, and the rates that it reaches."""
    found["machine"] = machine()
    found["versions"] = {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        **{name: version_of(name) for name in ("triton", "transformers")},
    }
    if bench.on_gpu:
        gpu = torch.cuda.get_device_properties(bench.device)
        found["gpu"] = {"name": gpu.name, "bytes": gpu.total_memory, "processors": gpu.multi_processor_count}
        found["gpu"]["capability"] = f"{gpu.major}.{gpu.minor}"
        found["nvidia_smi"] = nvidia_smi()
    bench.save()
    found["bf16_flops_per_s"] = {}
    for shape in bench.scale.matrices:
        found["bf16_flops_per_s"][" x ".join(map(str, shape))] = matrix_rate(shape, bench.device)
    found["copied_bytes_per_s"] = copy_rate(bench.scale.mebibytes << 20, bench.device)
    bench.say(f"  FLOP/s {found['bf16_flops_per_s']}, copied bytes/s {found['copied_bytes_per_s']:.3g}")


def version_of(package: str) -> str | None:
    """The installed version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvidia_smi() -> str | None:
    """Driver, power limit and highest clocks, as the driver's own program tells them."""
    fields = "driver_version,power.limit,clocks.max.sm,clocks.max.mem"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def matrix_rate(shape: tuple[int, int, int], device: torch.device) -> float:
    """FLOP/s of a product of bf16 matrices of random numbers: zeros would take less power, and so run faster."""
    rows, common, columns = shape
    a = torch.randn(rows, common, device=device).bfloat16()
    b = torch.randn(common, columns, device=device).bfloat16()
    return 2 * rows * common * columns / median_seconds(partial(torch.mm, a, b), device, repeats=30)


def copy_rate(size: int, device: torch.device) -> float:
    """Bytes a second, read and written."""
    source, goal = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / median_seconds(partial(goal.copy_, source), device)
