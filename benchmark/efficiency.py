"""Measure how full batches are: `python benchmark/efficiency.py --data FOLDER [SETTING...]`.

Takes train.en.gz and train.de.gz of the folder, or its train.tsv.gz, a joint BPE of 8,000 unless the settings (as
data.tokenizer_name=char) say otherwise, and 4,096 tokens a side; writes for each layout the real tokens over all
positions of an epoch, both sides together.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark.measuring.machine import RESULTS, machine
from pytorch_dl import files
from pytorch_dl.config import Config
from pytorch_dl.config.load import with_overrides
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
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train.en.gz and train.de.gz, or train.tsv.gz"
    )
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=RESULTS / "efficiency.json", help="the JSON file to write")
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    where = machine()
    table = arguments.data / "train.tsv.gz"
    paths = (table, None) if table.exists() else (arguments.data / "train.en.gz", arguments.data / "train.de.gz")
    config = with_overrides(Config(), arguments.settings).data
    texts = config.model_dump() | {
        "train_data_path": str(paths[0]),
        "train_tgt_path": paths[1] and str(paths[1]),
    }
    measured: dict[str, object] = {
        "text": arguments.data.name,
        "settings": arguments.settings,
        "max_tokens_per_batch": arguments.max_tokens,
    }
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
