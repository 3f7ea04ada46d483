"""Measure how full batches are: `python benchmark/efficiency.py --data multi30k`.

Takes train.en.gz and train.de.gz of the folder, a joint BPE of 8,000, and 4,096 tokens a side; writes for each layout
the real tokens over all positions of an epoch, both sides together.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.machine import RESULTS, machine
from pytorch_dl import files
from pytorch_dl.config.model_config import DataConfig
from pytorch_dl.dataset.efficient_dataloader import DataModule

LAYOUTS = {
    "random, 64 pairs": {"use_dynamic_batching": False},
    "bucketed": {"layout": "padded"},
    "packed": {"layout": "packed"},
}


def main() -> None:
    """Parse the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.en.gz and train.de.gz")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=RESULTS / "efficiency.json", help="the JSON file to write")
    arguments = parser.parse_args()
    where = machine()
    texts = {
        "train_data_path": str(arguments.data / "train.en.gz"),
        "train_tgt_path": str(arguments.data / "train.de.gz"),
    }
    measured: dict[str, object] = {"text": arguments.data.name, "max_tokens_per_batch": arguments.max_tokens}
    with tempfile.TemporaryDirectory() as cache:
        data = DataModule(data=DataConfig.model_validate(texts), cache_dir=cache)
        data.setup()
        for name, settings in LAYOUTS.items():
            data.data = DataConfig.model_validate({**texts, **settings, "max_tokens_per_batch": arguments.max_tokens})
            plan = data.train_dataloader().plan(0)
            measured[name] = {"batches": len(plan), "efficiency": round(plan.efficiency, 4)}
    print(json.dumps(measured))
    files.write_json(arguments.out, {**measured, "machine": where})


if __name__ == "__main__":
    main()
