"""Does `pytorch-dl estimate` tell what then happens? `python benchmark/estimates.py [--data FOLDER] [--only NAME]`.

For each of five configurations, `estimate` is asked and then the training is done, each in a process of its own, with
nothing prepared and nothing compiled before. Writes estimates.json: estimated beside measured time, tokens a second and
memory, and by how much the estimate is off. With --quick the trainings are so short that only this script is tried.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.command_line import say
from benchmark.measuring.machine import RESULTS, ROOT, machine
from benchmark.measuring.recipe import cost_of
from benchmark.race.workload import find_text, text_settings
from pytorch_dl.config import get_config, to_yaml
from pytorch_dl.config.load import checked, with_overrides, with_values
from pytorch_dl.data import dates_file
from pytorch_dl.files import write_json
from pytorch_dl.training.metrics import TIMING
from pytorch_dl.training.record_lines import read_lines

GOAL_PERCENT = 15.0
SECONDS = 15.0
QUICK = (
    "training.max_steps=30",
    "training.eval_every=20",
    "training.eval_decode=8",
    "system.compile=false",
    "logging.log_every=5",
)


@dataclass(frozen=True)
class Case:
    """A configuration; on the dates unless it needs the text of --data."""

    name: str
    preset: str
    settings: str
    needs_text: bool = False


CASES = (
    Case("nano, dates, packed", "nano", "training.max_steps=1000"),
    Case(
        "nano, dates, bucketed, larger batches",
        "nano",
        "data.layout=padded data.max_tokens_per_batch=2048 training.max_steps=500 system.compile=false",
    ),
    Case(
        "tiny, Multi30k, packed, compiled",
        "tiny",
        "training.max_steps=250 training.eval_every=125 system.compile=true",
        needs_text=True,
    ),
    Case(
        "tiny, Multi30k, bucketed, average of the weights",
        "tiny",
        "data.layout=padded training.max_steps=200 training.eval_every=100 training.ema_decay=0.99 "
        "system.compile=false",
        needs_text=True,
    ),
    Case(
        "nano, Multi30k, random batches, accumulated",
        "nano",
        "data.use_dynamic_batching=false training.batch_size=16 training.gradient_accumulation_steps=2 "
        "training.max_steps=300 training.eval_every=150",
        needs_text=True,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Go through the cases; returns 1 where an estimate of the time is further off than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train and val as .en and .de; else the dates for all")
    parser.add_argument("--only", help="the cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of steps that an estimate times")
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "estimates.json")
    options = parser.parse_args(argv)
    text = find_text(options.data)
    seconds = 0.2 if options.quick else options.seconds
    found: dict[str, Any] = {"machine": machine(), "goal_percent": GOAL_PERCENT, "timed_seconds": seconds, "cases": []}
    for case in CASES:
        if options.only and options.only not in case.name:
            continue
        say(case.name)
        with tempfile.TemporaryDirectory() as folder:
            row = compared(case, text, Path(folder), seconds=seconds, quick=options.quick)
        found["cases"].append(row)
        write_json(options.out, found)
        print(line_of(row), flush=True)
    return int(any(abs(row["off_percent"]["training_s"]) > GOAL_PERCENT for row in found["cases"]))


def compared(case: Case, text: Path | None, folder: Path, *, seconds: float, quick: bool) -> dict[str, Any]:
    """Estimate and train; each of both has its own empty cache of compiled code."""
    config = folder / "config.yaml"
    config.write_text(configuration(case, text if case.needs_text else None, quick=quick), encoding="utf-8")
    started = time.perf_counter()
    told = json.loads(command(folder / "estimate", "estimate", config, "--json", f"--seconds={seconds}"))
    took = time.perf_counter() - started
    started = time.perf_counter()
    command(folder / "train", "train", config, "--out", folder / "run")
    wall = time.perf_counter() - started
    text_told = told["text"]
    estimate = {
        "training_s": told["times"]["training"],
        "wall_s": told["times"]["total"],
        "tokens_per_s": told["times"]["tokens_per_second"],
        "process_bytes": told["memory"]["process_peak"],
        "tgt_tokens": text_told["epochs"] * text_told["tgt_tokens"],
        "steps": text_told["steps"],
    }
    measured = of_run(folder / "run") | {"wall_s": wall}
    off = {name: 100 * (estimate[name] / measured[name] - 1) for name in estimate}
    return {
        "name": case.name,
        "preset": case.preset,
        "settings": case.settings,
        "text": "multi30k" if case.needs_text and text else "dates",
        "estimate_took_s": took,
        "estimated": estimate,
        "measured": measured,
        "off_percent": off,
        "estimate": told,
    }


def configuration(case: Case, text: Path | None, *, quick: bool) -> str:
    """The whole configuration of a case, as YAML."""
    settings = text_settings(text, src_suffix="en", tgt_suffix="de")
    settings["data.val_data_path"] = str(text.resolve() / "val") if text else str(dates_file("val"))
    template = with_values(get_config(case.preset), settings)
    return to_yaml(
        checked(with_overrides(template, [*case.settings.split(), *(QUICK if quick else ())]), where=case.name)
    )


def command(cache: Path, *words: object) -> str:
    """Run pytorch-dl; returns what it printed."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    words = (sys.executable, "-m", "pytorch_dl", *words)
    return subprocess.run([*map(str, words)], env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


def of_run(run: Path) -> dict[str, Any]:
    """What its files tell of a training that has ended."""
    cost, timing = cost_of(run), read_lines(run / TIMING, once=True).rows
    return {
        "training_s": cost.seconds[0],
        "tokens_per_s": cost.tokens_per_second,
        "process_bytes": max(row["peak_rss_mb"] for row in timing) * 2**20,
        "tgt_tokens": cost.tgt_tokens[0],
        "steps": cost.steps[0],
    }


def line_of(row: dict[str, Any]) -> str:
    """A case in a line."""
    estimated, measured, off = row["estimated"], row["measured"], row["off_percent"]
    return (
        f"{row['name']}: training {estimated['training_s']:.1f} s for {measured['training_s']:.1f} s "
        f"({off['training_s']:+.1f} %), tokens/s {estimated['tokens_per_s']:,.0f} for {measured['tokens_per_s']:,.0f} "
        f"({off['tokens_per_s']:+.1f} %), process {estimated['process_bytes'] / 1e6:,.0f} MB for "
        f"{measured['process_bytes'] / 1e6:,.0f} MB ({off['process_bytes']:+.1f} %)"
    )


if __name__ == "__main__":
    raise SystemExit(main())
