"""A million lines through `translate`: `python benchmark/many_lines.py RUN [--lines N] [--kills N]`.

One process translates them unbroken, while its resident memory is read; another, beside it, is killed with SIGKILL at
random places and started again with --resume. Both must leave the same bytes. One thread each. Writes NAME.json; exit
code 1 when a byte differs, or a line or a kill lacks. Linux only.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.command_line import positive, say
from benchmark.measuring.machine import RESULTS, ROOT, machine
from pytorch_dl.data import dates_file
from pytorch_dl.dataset.text_lines import read_lines
from pytorch_dl.files import write_json

INTERVAL = 2.0  # seconds between two looks at the processes


def main() -> None:
    """Translate, kill, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a trained run")
    parser.add_argument("--lines", type=positive, default=1_000_000)
    parser.add_argument("--kills", type=positive, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the places where it is killed")
    parser.add_argument("--name", default="many_lines", help="of the result file")
    options = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "lines": options.lines}
    with tempfile.TemporaryDirectory() as name:
        source, whole, broken = (Path(name) / part for part in ("source.txt", "whole.txt", "broken.txt"))
        write_source(source, options.lines)
        found |= watched(options.run.resolve(), source, whole, broken, kill_places(options))
        found["sha256"] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (whole, broken)]
        found["lines_out"] = whole.read_bytes().count(b"\n")
    found["identical"] = found["sha256"][0] == found["sha256"][1]
    write_json(RESULTS / f"{options.name}.json", found)
    print(json.dumps({key: value for key, value in found.items() if key not in ("machine", "resident_mb")}, indent=2))
    whole_kills = len(found["kills"]) == options.kills
    raise SystemExit(0 if found["identical"] and found["lines_out"] == options.lines and whole_kills else 1)


def write_source(path: Path, count: int) -> None:
    """So many lines: the sources of the bundled training text, over and over."""
    sources = [raw.partition(b"\t")[0] + b"\n" for raw in read_lines(dates_file("train"))]
    with path.open("wb") as file:
        file.writelines(itertools.islice(itertools.cycle(sources), count))


def kill_places(options: argparse.Namespace) -> list[int]:
    """Numbers of lines after which to kill, in order."""
    return sorted(
        random.Random(options.seed).sample(range(options.lines // 20, options.lines * 9 // 10), options.kills)
    )


def watched(run: Path, source: Path, whole: Path, broken: Path, places: list[int]) -> dict[str, Any]:
    """Both translations side by side: seconds, resident memory of the unbroken one by lines written, and the kills."""
    memory: list[tuple[int, float]] = []
    kills: list[dict[str, int]] = []
    started = time.perf_counter()
    unbroken, victim = start(run, source, whole), start(run, source, broken)
    seconds = 0.0
    try:
        while unbroken.poll() is None or victim.poll() is None:
            time.sleep(INTERVAL)
            if unbroken.poll() is None:
                memory.append((lines_of(whole), resident_mb(unbroken.pid)))
            elif not seconds:
                seconds = time.perf_counter() - started
            if len(kills) < len(places) and lines_of(broken) >= places[len(kills)] and victim.poll() is None:
                victim.kill()
                victim.wait()
                kills.append({"wanted_at": places[len(kills)], "lines_kept": lines_of(broken)})
                say(f"killed after {kills[-1]['lines_kept']:,} lines")
                victim = start(run, source, broken, "--resume")
            for process in (unbroken, victim):
                if process.poll():
                    raise RuntimeError(f"translate ended with exit code {process.returncode}")
    finally:
        for process in (unbroken, victim):
            process.kill()
    return {"seconds": seconds, "kills": kills, "resident_mb": [list(pair) for pair in memory if pair[0]]}


def start(run: Path, source: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """`translate` in a process of its own."""
    words = [sys.executable, "-m", "pytorch_dl", "translate", run, source, "--out", out, "--beam", 1, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([str(word) for word in words], env=environment)


def lines_of(out: Path) -> int:
    """Lines that are safely written."""
    try:
        return int(json.loads(out.with_name(f"{out.name}.part.json").read_bytes())["lines"])
    except (FileNotFoundError, ValueError):
        return 0


def resident_mb(pid: int) -> float:
    """Resident memory of a process; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


if __name__ == "__main__":
    main()
