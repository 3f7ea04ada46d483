"""A recipe of configs/, run from raw text; what it leaves is moved elsewhere and translates there."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.measuring.machine import ROOT
from pytorch_dl.experiments.costs import Cost, read_cost
from pytorch_dl.training.checkpoint import MODEL, count_numbers
from pytorch_dl.training.run_folder import RunFolder


def run_recipe(
    name: str, texts: Mapping[str, Path], folder: Path, settings: Sequence[str]
) -> tuple[dict[str, Any], Path]:
    """Run configs/NAME.yaml in `folder` on the texts of the options src, val-src, ...; figures, and what it left."""
    run, moved = folder / "run", folder / "moved"
    options = [f"--{option}={path}" for option, path in texts.items()]
    began = time.monotonic()
    command("run", f"--config={ROOT / 'configs' / f'{name}.yaml'}", f"--out={run}", *options, *settings)
    wall_seconds = time.monotonic() - began
    report = json.loads((run / "report.json").read_bytes())
    cost = cost_of(run)
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("cache", "checkpoints"))
    shutil.rmtree(run)
    sources = folder / "sources.txt"  # the text itself may hold both sides
    sources.write_text("".join(f"{source}\n" for source, _, _ in compared(moved)))
    translated = command("translate", str(moved), str(sources), capture=True).split("\n")[:-1]
    figures = {
        "wall_seconds": round(wall_seconds, 1),
        "training_seconds": round(cost.seconds[0], 1),
        "steps": cost.steps[0],
        "parameters": cost.parameters,
        "beam_size": report["beam_size"],
        "scores": {score["name"]: round(score["value"], 2) for score in report["scores"]},
        "signature": report["scores"][0]["signature"],
        "moved_run_translates_alike": translated == [translation for _, _, translation in compared(moved)],
    }
    return figures, moved


def cost_of(run: Path) -> Cost:
    """What a run that has ended has cost."""
    folder = RunFolder(run)
    return read_cost(run.name, [folder], parameters=count_numbers(folder.model / MODEL))


def compared(run: Path) -> list[tuple[str, str, str]]:
    """Source, reference and translation of each pair of a run's test text, the wrong ones first."""
    rows = (line.split("\t") for line in (run / "test.compared.tsv").read_text("utf-8").split("\n")[1:-1])
    return [(source, reference, translation) for _, source, reference, translation in rows]


def command(*words: str, capture: bool = False) -> str:
    """Run pytorch-dl; returns what it printed, where that is captured."""
    done = subprocess.run(
        [sys.executable, "-m", "pytorch_dl", *words],
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE if capture else None,
    )
    return done.stdout or ""
