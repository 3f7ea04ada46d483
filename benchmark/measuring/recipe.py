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
    state = json.loads(newest(run / "checkpoints").joinpath("state.json").read_bytes())
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("cache", "checkpoints"))
    shutil.rmtree(run)
    sources = folder / "sources.txt"  # the text itself may hold both sides
    sources.write_text("".join(f"{source}\n" for source, _, _ in compared(moved)))
    translated = command("translate", str(moved), str(sources), capture=True).split("\n")[:-1]
    figures = {
        "wall_seconds": round(wall_seconds, 1),
        "training_seconds": round(state["seconds"], 1),
        "steps": state["step"],
        "parameters": parameters(moved / "model" / "model.safetensors"),
        "beam_size": report["beam_size"],
        "scores": {score["name"]: round(score["value"], 2) for score in report["scores"]},
        "signature": report["scores"][0]["signature"],
        "moved_run_translates_alike": translated == [translation for _, _, translation in compared(moved)],
    }
    return figures, moved


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


def newest(checkpoints: Path) -> Path:
    """The last checkpoint of a run."""
    return max(checkpoints.glob("step-*"))


def parameters(weights: Path) -> int:
    """The numbers in a file of weights, from its header."""
    with open(weights, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return max(ends) // 4
