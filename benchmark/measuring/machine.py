"""Where, when and with what a figure was measured: it stands beside each result."""

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import tokenizers

from pytorch_dl.training.run_folder import environment

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmark" / "results"
HALF_PRECISION = {"amx_bf16", "avx512_bf16", "avx512_fp16", "amx_fp16"}


def machine() -> dict[str, Any]:
    """Machine, time, commit and versions."""
    flags = next((set(line.split()) for line in _lines(Path("/proc/cpuinfo")) if line.startswith("flags")), set())
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmark/results")),
        **environment(),
        "cpu_half_precision": sorted(flags & HALF_PRECISION),
        "load_average_before": round(os.getloadavg()[0], 2),
        "numpy": numpy.__version__,
        "tokenizers": tokenizers.__version__,
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
