"""The recipe of configs/multi30k.yaml, timed from raw text: `python benchmark/multi30k.py --data multi30k`.

Runs `pytorch-dl run` on the folder's compressed files, then moves the run's folder elsewhere and lets it translate the
test text once more with nothing but itself. Writes the wall time, the scores and the size of the model.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import RESULTS, machine
from benchmark.measuring.recipe import run_recipe
from pytorch_dl import files

TEXTS = {"": "train", "val-": "val", "test-": "test_2016_flickr"}


def main() -> None:
    """Parse the command line, run the recipe, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, val and test as .en.gz and .de.gz")
    parser.add_argument("--out", type=Path, default=RESULTS / "multi30k.json", help="the JSON file to write")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="other than the recipe's")
    given = parser.parse_args()
    where = machine()
    texts = {
        f"{prefix}{side}": given.data.resolve() / f"{stem}.{suffix}.gz"
        for prefix, stem in TEXTS.items()
        for side, suffix in (("src", "en"), ("tgt", "de"))
    }
    with tempfile.TemporaryDirectory() as folder:
        figures, _ = run_recipe("multi30k", texts, Path(folder), given.settings)
    print(json.dumps(figures))
    files.write_json(given.out, {**figures, "settings": given.settings, "machine": where})


if __name__ == "__main__":
    main()
