"""Data never waits: `python benchmark/data_speed.py [--data FOLDER] [--preset nano] [SECTION.KEY=VALUE ...]`.

1. The share of a training step that goes to data, for each preset: the seconds that a loop which does nothing else
   waits for a batch, and for the rest of an epoch's plan, which is made meanwhile, spread over its batches; divided by
   those of a step of our trainer. From a token store just written (cold), and one that a second start finds (warm).
   Beside it, what training waits, while threads make the batches, in the median. The goal: that is under 1 %.
2. Pairs a second from text files to token ids on disk: `DataModule.setup` beside Hugging Face's `datasets`, with the
   same tokenizer and as many threads. The text is repeated, which suits the tokenizer's cache on both sides.

Prints tables and writes NAME.json.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmark.contenders.ours import Ours
from benchmark.measuring.command_line import positive, say
from benchmark.measuring.compilation import each_shape_compiled
from benchmark.measuring.machine import RESULTS, machine
from benchmark.measuring.preparing import preparation
from benchmark.measuring.waiting import time_steps, wait_for
from benchmark.race.workload import configuration, find_text, text_settings
from pytorch_dl.building import build_model
from pytorch_dl.config import Config, get_config
from pytorch_dl.config.load import with_overrides
from pytorch_dl.errors import UserError
from pytorch_dl.files import write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.prepare import prepare
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.trainer import create_trainer

GOAL_PERCENT = 1.0
DEFAULT = "default"  # what no template changes
PRESETS = ("nano", "tiny", DEFAULT, "transformer-base", "transformer-big", "small", "base", "large")  # by their cost


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code, which does not depend on whether the goal is met."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--data", type=Path, help="folder with train.en and train.de; the bundled dates when left out")
    found.add_argument(
        "--preset", action="append", choices=PRESETS, help="may come again; nano, tiny and default when left out"
    )
    found.add_argument("--steps", type=positive, default=10, help="of training that are timed")
    found.add_argument("--longest-step", type=float, default=20.0, help="in seconds: leave a preset out beyond it")
    found.add_argument("--no-compile", action="store_true")
    found.add_argument("--pairs", type=positive, default=100_000, help="of the repeated text")
    found.add_argument("--repeats", type=positive, default=5, help="of the preparation")
    found.add_argument("--name", default="data_speed")
    found.add_argument("--out", type=Path, default=RESULTS)
    found.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    options = found.parse_args(argv)
    where = machine()
    keep_freed_memory()
    try:
        text = text_settings(find_text(options.data), src_suffix="en", tgt_suffix="de")
        rows = shares(options, text)
        speeds = preparation(configured(DEFAULT, text, options), pairs=options.pairs, repeats=options.repeats)
    except UserError as error:
        print(f"data_speed: error: {error}", file=sys.stderr)
        return error.exit_code
    results = {"machine": where, "goal_percent": GOAL_PERCENT, "presets": rows, "preparation": speeds}
    write_json(options.out / f"{options.name}.json", results)
    print("\n".join(table(rows, speeds)))
    return 0


def configured(preset: str, text: dict[str, Any], options: argparse.Namespace) -> Config:
    """The preset on the text; here its threads count, which `configuration` takes away."""
    template = Config() if preset == DEFAULT else get_config(preset)
    config = configuration(template, text, [*options.settings, *["system.compile=false"] * options.no_compile])
    config.data.num_workers = with_overrides(template, options.settings).data.num_workers
    return config


def shares(options: argparse.Namespace, text: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each preset; left out is one whose step would be too long, going by the last one measured."""
    rows: list[dict[str, Any]] = []
    seconds = 0.0  # of a step, for each parameter and token
    for preset in options.preset or PRESETS[:3]:
        config = configured(preset, text, options)
        with torch.device("meta"):
            sizes = {side: config.data.vocab_size for side in ("src_vocab_size", "tgt_vocab_size")}
            parameters = OptimizedTransformer(**sizes, **config.model.__dict__).num_parameters()
        work = parameters * config.data.max_tokens_per_batch
        if seconds * work > options.longest_step:
            why = f"a step would take about {seconds * work:,.0f} s, more than {options.longest_step:g} s"
            rows.append({"preset": preset, "parameters": parameters, "left_out": why})
            continue
        say(f"steps of {preset}")
        with tempfile.TemporaryDirectory() as name, each_shape_compiled():
            rows.append({"preset": preset, **share(config, RunFolder(Path(name)), steps=options.steps)})
        seconds = rows[-1]["step_s"] / work
    return rows


def share(config: Config, folder: RunFolder, *, steps: int) -> dict[str, Any]:
    """What one preset waits for data, cold and warm, beside what its steps take."""
    waits = {}
    for state in ("cold", "warm"):  # the first start leaves tokenizer and token store to the second
        started = time.perf_counter()
        data = prepare(folder, config, lambda _: None)
        waits[state], loader = wait_for(data, started=started)
    model = build_model(config, data.tokenizers)
    trainer = create_trainer(model=model, train_dataloader=loader, config=config, run_dir=folder.path)
    ours = Ours(trainer, config, packed=loader.planner.packed)
    seconds, waited = time_steps(ours, loader, steps=steps)
    step = statistics.median(seconds)
    return {
        "what": ours.what,
        "parameters": model.num_parameters(),
        "workers": loader.workers,
        "steps_s": seconds,
        "step_s": step,
        "waited_while_training_s": waited,
        "while_training_percent": 100 * statistics.median(waited) / step,
        **{state: {**asdict(wait), "share_percent": 100 * wait.per_batch_s / step} for state, wait in waits.items()},
    }


def table(rows: list[dict[str, Any]], speeds: dict[str, Any]) -> list[str]:
    """All figures in columns."""
    heads = ("step ms", "wait ms", "plan s", "batches", "cold %", "warm %", "training %", "cold s", "warm s")
    lines = [f"{'':17}" + "".join(f"{head:>11}" for head in heads)]
    for row in rows:
        if "left_out" in row:
            lines.append(f"{row['preset']:17}  left out: {row['left_out']}")
            continue
        cold, warm = row["cold"], row["warm"]
        figures = [1e3 * row["step_s"], 1e3 * warm["wait_s"], warm["plan_s"], warm["batches"]]
        figures += [cold["share_percent"], warm["share_percent"], row["while_training_percent"]]
        figures += [cold["first_batch_s"], warm["first_batch_s"]]
        lines.append(f"{row['preset']:17}" + "".join(f"{figure:11,.3f}" for figure in figures))
    worst = max(row["while_training_percent"] for row in rows if "cold" in row)
    lines.append(f"the goal, under {GOAL_PERCENT:g} % in training: {'met' if worst < GOAL_PERCENT else 'missed'}")
    if "left_out" in speeds:
        return [*lines, f"preparation left out: {speeds['left_out']}"]
    both = ", ".join(f"{side} {speed:,.0f}" for side, speed in speeds["median"].items())
    return [*lines, f"pairs prepared a second: {both} ({speeds['ratio']:.2f} ×)"]


if __name__ == "__main__":
    raise SystemExit(main())
