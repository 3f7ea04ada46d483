"""How a process of the command line ends, whatever its libraries do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import TINY, environment, write_tsv

HANGS = 120.0  # seconds, unless it is left alone
WANDB = f"""
import atexit, time
from types import SimpleNamespace

def init(**options):
    atexit.register(time.sleep, {HANGS})
    return SimpleNamespace(log=lambda values, step: time.sleep({HANGS}), finish=lambda: None)
"""
PROGRAM = """
import pytorch_dl.training.tracking as tracking
from pytorch_dl.entry import main
tracking.CLOSING_SECONDS = 0.2
main()
"""


@pytest.mark.parametrize(("ending", "code"), [([], 0), (["training.learning_rate=1e30"], 5)], ids=["done", "failed"])
def test_a_tracker_that_hangs_does_not_hold_the_process(ending: list[str], code: int, tmp_path: Path) -> None:
    """Nor does what its library means to do at the end."""
    (tmp_path / "wandb.py").write_text(WANDB)
    places = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    options = ["run", "--src", str(write_tsv(tmp_path / "text.tsv")), "--out", "run", *TINY, "logging.wandb=true"]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *options, *ending],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert time.monotonic() - began < HANGS / 2
    assert ended.returncode == code, ended.stderr
    assert "WandB failed and is switched off: it has not answered for 0.2 seconds" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("translate with: " if code == 0 else "pytorch-dl: error: ")
    assert (tmp_path / "run/model/model.safetensors").exists() == (code == 0)
