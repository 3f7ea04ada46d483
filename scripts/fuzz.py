"""Feed spoilt files and command lines to everything that reads them, guided by the code that they reach.

    python scripts/fuzz.py "config YAML" --minutes 3
    python scripts/fuzz.py all --minutes 10

Needs atheris (`pip install atheris`: Linux on x86-64), which changes valid inputs until they reach new code. Only a
UserError may come of any of them, in less than 1 GB and 20 seconds. Executions and findings of each target go to
benchmark/results/fuzzing.json; inputs are kept in build/fuzzing, where the next call goes on. Exit code 1: findings.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import RESULTS, ROOT, machine
from pytorch_dl.files import write_json
from scripts.fuzz_targets import TARGETS

PROCESS = Path(__file__).resolve().parent / "fuzz_process.py"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # the targets sync what they write
STATED = ("date", "commit", "uncommitted_changes", "cpu", "torch", "python", "tokenizers")


def main() -> int:
    """Fuzz the targets one after another, and write down each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--minutes", type=float, default=3.0, help="for each target")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzzing.json")
    parser.add_argument("--inputs", type=Path, default=ROOT / "build" / "fuzzing", help="folder of what was found")
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install atheris")
    where = {name: value for name, value in machine().items() if name in STATED} | {"atheris": version("atheris")}
    bad = False
    for name in TARGETS if given.target == "all" else [given.target]:
        result = fuzz(name, 60 * given.minutes, given.inputs / name.replace(" ", "-"))
        print(f"{name}: {result['executions']:,} executions, {result['memory_mb']} MB, findings: {result['findings']}")
        found: dict[str, Any] = json.loads(given.out.read_bytes()) if given.out.exists() else {}
        write_json(given.out, dict(sorted((found | {name: {**result, **where}}).items())))
        bad |= bool(result["findings"])
    return int(bad)


def fuzz(name: str, seconds: float, folder: Path) -> dict[str, Any]:
    """Fuzz one target for so long; the process begins anew when an input ends it, which is a finding."""
    folder.mkdir(parents=True, exist_ok=True)
    total: dict[str, Any] = {"executions": 0, "seconds": round(seconds), "memory_mb": 0, "findings": {}}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1:
        result = folder / "result.json"
        result.unlink(missing_ok=True)
        with open(folder / "log.txt", "wb") as log, tempfile.TemporaryDirectory(dir=MEMORY) as place:
            command = [sys.executable, str(PROCESS), name, str(left), str(folder), place]
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        done = json.loads(result.read_bytes()) if result.exists() else {"executions": 0, "memory_mb": 0, "findings": {}}
        total["executions"] += done["executions"]
        total["memory_mb"] = max(total["memory_mb"], done["memory_mb"])
        total["findings"] |= done["findings"]
        if ended.returncode:
            inputs = sorted(folder.glob("ended-*"), key=lambda path: path.stat().st_mtime)
            total["findings"][f"exit code {ended.returncode}"] = inputs[-1].name if inputs else "log.txt"
            if not done["executions"]:
                told = (folder / "log.txt").read_text(errors="replace")
                raise SystemExit(f"{name} cannot be fuzzed: {told[-2000:]}")
    return total


if __name__ == "__main__":
    raise SystemExit(main())
