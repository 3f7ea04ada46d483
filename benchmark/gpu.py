"""Training on one GPU checked and measured, in one call of ten minutes: `python benchmark/gpu.py [--minutes 9]`.

Facts about the machine, correctness against float64, a race of attention kernels, steps of training side by side with
others, recompilations and waits of a step, and a profile. Needs no data and no network. Writes one JSON file, anew
after each result, so that a run cut short leaves what it has; a part that fails says so there, and the next one runs.
Without a GPU it runs at small sizes on the CPU, to show that it runs.
"""

import argparse
import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pytorch_dl.process import fix_kernels

    fix_kernels()  # before torch is loaded, as the command line does

from benchmark.gpu_parts.attention_race import race
from benchmark.gpu_parts.correctness import correctness
from benchmark.gpu_parts.facts import facts
from benchmark.gpu_parts.scale import FULL, QUICK, Bench, Found
from benchmark.gpu_parts.step_costs import costs, counts
from benchmark.gpu_parts.steps import release, steps
from benchmark.measuring.machine import RESULTS
from pytorch_dl.building import choose_device
from pytorch_dl.files import write_json
from pytorch_dl.models.compilers import missing_for_compilation

LAST_LINES = 12  # of a traceback


class Part(NamedTuple):
    """One part, and its share of all the time; what it leaves of it goes to the next."""

    name: str
    share: float
    measure: Callable[[Bench, Found], None]


PARTS = [
    Part("facts", 0.05, facts),
    Part("correctness", 0.16, correctness),
    Part("attention", 0.22, race),
    Part("steps", 0.41, steps),
    Part("counts", 0.08, counts),
    Part("profile", 0.08, costs),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; returns 1 where a part failed or a check does not hold."""
    options = parser().parse_args(argv)
    device = choose_device("auto")
    quick = options.quick or device.type == "cpu"
    out = options.out or (Path("runs/gpu-quick.json") if quick else RESULTS / "gpu.json")
    results: dict[str, Any] = {"settings": {"device": device.type, "minutes": options.minutes}, "parts": {}}
    bench = Bench(
        device,
        QUICK if quick else FULL,
        compiled=not options.no_compile and not missing_for_compilation(device.type),
        peak_flops=1e12 * options.peak_tflops,
        save=lambda: write_json(out, finite(results)),
    )
    results["settings"] |= {"quick": quick, "compiled": bench.compiled}
    parts = [part for part in PARTS if part.name in options.parts]
    run_parts(parts, bench, results["parts"], seconds=60 * options.minutes)
    failed = [name for name, part in results["parts"].items() if not part["done"]]
    checked = results["parts"].get("correctness")
    wrong = checked and not checked["found"].get("passes")
    print(f"written: {out}")
    said = "DOES NOT HOLD" if wrong else "holds" if checked else "not checked"
    print(f"failed: {', '.join(failed) or 'nothing'}; correctness: {said}")
    return 1 if failed or wrong else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--minutes", type=float, default=9.0, help="what is begun later than that is skipped (9)")
    found.add_argument("--out", type=Path, help="the file that is written (benchmark/results/gpu.json)")
    names = [part.name for part in PARTS]
    found.add_argument("--parts", nargs="+", choices=names, default=names, help="those that are run (all)")
    found.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    found.add_argument("--no-compile", action="store_true", help="leave out all that is compiled")
    found.add_argument("--peak-tflops", type=float, default=989.0, help="that utilisation is a share of (989: H100)")
    return found


def run_parts(parts: Sequence[Part], bench: Bench, results: dict[str, Any], *, seconds: float) -> None:
    """Run all parts one after another, each until its share of the time is over, whatever happens to the others."""
    start, share = time.monotonic(), 0.0
    for part in parts:
        share += part.share / sum(one.share for one in parts)
        bench.deadline = start + share * seconds
        bench.say(f"{part.name}: {max(0.0, bench.time_left):.0f} s")
        results[part.name] = run_part(part, bench, results)
        bench.save()


def run_part(part: Part, bench: Bench, results: dict[str, Any]) -> dict[str, Any]:
    """Run one part; what it found stands in the results from the beginning."""
    entry: dict[str, Any] = {"done": False, "found": {}}
    results[part.name] = entry
    start = time.monotonic()
    try:
        part.measure(bench, entry["found"])
        entry["done"] = True
    except Exception as error:
        entry["error"] = f"{type(error).__name__}: {error}"
        entry["traceback"] = traceback.format_exc().splitlines()[-LAST_LINES:]
        bench.say("\n".join(entry["traceback"]))
    entry["seconds"] = time.monotonic() - start
    release(bench)
    return entry


def finite(value: Any) -> Any:
    """The same for JSON, which knows no infinity and no NaN: they become text."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
