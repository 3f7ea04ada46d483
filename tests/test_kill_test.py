"""The script that kills a training again and again, on a few kills."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmark" / "kill_test.py"


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_left_alone() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--kills", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["equal"] is True
    assert result["kills_survived"] == 2
    assert result["lost_steps_max"] <= result["save_every"]
