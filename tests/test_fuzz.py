"""The targets of the fuzzer: they take their seeds and refuse what is spoilt, and a bug is told from a refusal."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.fuzz_targets import TARGETS
from scripts.fuzz_trial import Trial

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "fuzz.py"


def spoilt(seed: bytes, rng: random.Random) -> bytes:
    """With some bytes changed, left out, doubled or inserted."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        place, size = rng.randrange(len(data) + 1), rng.randint(0, 4)
        there = bytes(data[place : place + size])
        data[place : place + size] = rng.choice([rng.randbytes(1), b"", 2 * there, b"-1", b"[", b'"'])
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds_and_refuses_what_is_spoilt(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    for seed in target.seeds:
        target.feed(seed)
    trial, rng = Trial(target.feed, tmp_path, seconds=600), random.Random(1)
    for _ in range(30):
        trial(spoilt(rng.choice(target.seeds), rng))
    assert trial.executions == 30 and not trial.findings


def test_another_error_is_a_finding_with_its_input(tmp_path: Path) -> None:
    def feed(data: bytes) -> None:
        if data == b"b":
            raise KeyError("b")

    trial = Trial(feed, tmp_path, seconds=600)
    for data in (b"a", b"b", b"b"):
        trial(data)
    trial.write()
    (name, file), *others = json.loads((tmp_path / "result.json").read_bytes())["findings"].items()
    assert name.startswith("KeyError at test_fuzz.py:") and not others
    assert (tmp_path / file).read_bytes() == b"b"
    assert "KeyError: 'b'" in (tmp_path / f"{file}.txt").read_text()


@pytest.mark.slow
def test_the_program_writes_what_it_did(tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, str(SCRIPT), "config JSON", "--minutes", "0.2", "--out", str(tmp_path / "out.json")]
    subprocess.run([*command, "--inputs", str(tmp_path)], check=True)
    found = json.loads((tmp_path / "out.json").read_bytes())["config JSON"]
    assert found["executions"] > 100 and found["findings"] == {} and 0 < found["memory_mb"] < 1024
