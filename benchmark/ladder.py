"""The ladder: each optimisation switched on in turn, and taken away from the whole; `python benchmark/ladder.py`.

The lowest rung is our own plain Transformer of 2017: post-norm, ReLU, LayerNorm, sinusoidal positions, biases, fp32,
random padded batches, all logits, torch's dropout, unfused Adam. Variations of the whole (activation, norm, separate
projections, checkpointing) stand beside it at equal parameters, with the loss after equal batches. All by turns, in one
process; writes NAME.json, NAME.md and NAME.png.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch._dynamo

from benchmark.measuring.command_line import say
from benchmark.measuring.machine import machine
from benchmark.race.by_turns import turns
from benchmark.race.measures import TURN_STEPS
from benchmark.race.workload import prepare
from benchmark.rungs.options import configured, parser
from benchmark.rungs.plot import median_ratio, write_ladder
from benchmark.rungs.rung import Rung, rungs
from pytorch_dl.files import write_file, write_json
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.live_memory import peak_bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Climb the ladder."""
    command_line = parser(__doc__, steps=8)
    command_line.add_argument("--repeats", type=int, default=5, help="of so many steps each")
    command_line.add_argument("--name", default="ladder")
    options = command_line.parse_args(argv)
    where = machine()
    keep_freed_memory()
    torch._dynamo.config.recompile_limit = 64  # the rungs share the code of the layers
    config = configured(options)
    with tempfile.TemporaryDirectory() as name:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(name) / "compiled")
        work = prepare(config, Path(name), pairs_per_step=options.pairs_per_step)
        ladder = [Rung(rung, on, work) for rung, on in rungs(compiled=not options.no_compile).items()]
        rows = measured(ladder, repeats=options.repeats, steps=options.steps)
    write_json(
        options.out / f"{options.name}.json", {"machine": where, "config": config.model_dump()["model"], "rungs": rows}
    )
    table = markdown(rows)
    write_file(options.out / f"{options.name}.md", "\n".join(table) + "\n")
    write_ladder(options.out / f"{options.name}.png", rows)
    print("\n".join(table))
    return 0


def measured(ladder: list[Rung], *, repeats: int, steps: int) -> list[dict[str, Any]]:
    """Speed of all rungs by turns, the memory of a step of as many batches, and the loss of the last repeat."""
    speeds: dict[str, list[float]] = {rung.name: [] for rung in ladder}
    losses: dict[str, float] = {}
    warmup: dict[str, float] = {}
    for rung in ladder:
        start = time.perf_counter()
        rung.run(3)
        warmup[rung.name] = time.perf_counter() - start
        say(f"warm: {rung.name}")
    for repeat in range(repeats):
        for rung in turns(ladder, repeat):
            rung.run(TURN_STEPS)
            speed, losses[rung.name] = rung.run(steps)
            speeds[rung.name].append(speed)
        say(f"repeat {repeat + 1} of {repeats}")
    rows = []
    for rung in ladder:
        peaks = [peak_bytes(rung.model, rung.optimizer, partial(rung.step, next(rung.batches))) for _ in range(repeats)]
        rows.append(
            {
                "name": rung.name,
                "switches": asdict(rung.on),
                "parameters": rung.model.num_parameters(),
                "tokens_per_s": speeds[rung.name],
                "warmup_s": warmup[rung.name],
                "activations_mb": statistics.median(peak.activations for peak in peaks) / 1e6,
                "total_mb": statistics.median(peak.total for peak in peaks) / 1e6,
                "loss_of_last_repeat": losses[rung.name],
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """A table with the ratios to the lowest rung and to the whole: medians of those within a repeat."""
    plain, whole = rows[0], next(row for row in reversed(rows) if row["name"].startswith("+"))
    lines = [
        "| | tokens/s | × plain | × whole | activations MB | × plain | loss after equal batches |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        speed = statistics.median(row["tokens_per_s"])
        ratios = [median_ratio(row["tokens_per_s"], other["tokens_per_s"]) for other in (plain, whole)]
        share = row["activations_mb"] / plain["activations_mb"]
        lines.append(
            f"| {row['name']} | {speed:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {row['activations_mb']:,.0f} | "
            f"{share:.2f} | {row['loss_of_last_repeat']:.3f} |"
        )
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
