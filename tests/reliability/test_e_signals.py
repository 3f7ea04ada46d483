"""Signals: whenever one comes, the step is saved, the code is 75, and nothing is lost."""

import json
import random
import signal
import time

import pytest
from processes import end, start, together
from small_trainings import last_step, resume, settings_file, train

from pytorch_dl.training import checkpoint as ckpt


@pytest.mark.slow
def test_e3_sigterm_at_any_moment(case, tmp_path):
    """From the start of a process on, again and again; at last, the steps since the last save are recomputed."""
    config, run = settings_file(tmp_path), tmp_path / "run"
    times, rng, slowest = case.size(4, 100), random.Random(3), 0.0
    for number in range(times):
        begun = (run / "config.yaml").exists()
        (process,) = start(1, resume(run) if begun else train(config, run, "training.max_steps=100000"))
        time.sleep(rng.uniform(0.5, 6.0))
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        (ended,) = end([process])
        slowest = max(slowest, time.monotonic() - asked)
        assert ended.code == 75, f"{number}: {ended}"
        if saved := ckpt.checkpoints(run / "checkpoints"):
            assert json.loads((saved[0] / "state.json").read_bytes())["step"] == last_step(run), number
    (replayed,) = together(1, ["-m", "pytorch_dl", "replay", str(run)])
    assert replayed.code == 0, replayed.err
    case.survived(times, injected="SIGTERM at any moment", lost=f"no step; the slowest answer took {slowest:.1f} s")
