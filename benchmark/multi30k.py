"""The recipe of configs/multi30k.yaml, timed from raw text: `python benchmark/multi30k.py --data multi30k`.

Runs `pytorch-dl run` on the folder's compressed files, then moves the run's folder elsewhere and lets it translate the
test text once more with nothing but itself. Writes the wall time, the scores and the size of the model.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import RESULTS, ROOT, machine
from pytorch_dl import files

TEST = "test_2016_flickr"


def main() -> None:
    """Parse the command line, run the recipe, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test as .en.gz and .de.gz")
    parser.add_argument("--out", type=Path, default=RESULTS / "multi30k.json", help="the JSON file to write")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="other than the recipe's")
    arguments = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory() as name:
        measured = measure(arguments.data.resolve(), Path(name), arguments.settings)
    print(json.dumps(measured))
    files.write_json(arguments.out, {**measured, "settings": arguments.settings, "machine": where})


def measure(data: Path, folder: Path, settings: list[str]) -> dict[str, Any]:
    """Run the recipe in `folder`, and let what it leaves translate."""
    run, moved = folder / "run", folder / "moved"
    texts = {"": "train", "val-": "val", "test-": TEST}
    options = [
        f"--{prefix}{side}={data / f'{stem}.{suffix}.gz'}"
        for prefix, stem in texts.items()
        for side, suffix in (("src", "en"), ("tgt", "de"))
    ]
    began = time.monotonic()
    command("run", f"--config={ROOT / 'configs' / 'multi30k.yaml'}", f"--out={run}", *options, *settings)
    wall_seconds = time.monotonic() - began
    report = json.loads((run / "report.json").read_bytes())
    state = json.loads(newest(run / "checkpoints").joinpath("state.json").read_bytes())
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("cache", "checkpoints"))
    shutil.rmtree(run)
    translated = command("translate", str(moved), str(data / f"{TEST}.en.gz"), capture=True)
    return {
        "wall_seconds": round(wall_seconds, 1),
        "training_seconds": round(state["seconds"], 1),
        "steps": state["step"],
        "parameters": parameters(moved / "model" / "model.safetensors"),
        "beam_size": report["beam_size"],
        "scores": {score["name"]: round(score["value"], 2) for score in report["scores"]},
        "signature": report["scores"][0]["signature"],
        "moved_run_translates_alike": translated == (moved / "test.translations.txt").read_text(),
    }


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


if __name__ == "__main__":
    main()
