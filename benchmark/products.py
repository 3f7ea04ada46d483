"""Where a training step's time goes, line by line, and what it cannot do without: each matrix product alone.

`python benchmark/products.py [--data FOLDER] [--size T|B] [system.compile=true]`. The lines are of the step itself, by
clocks in it, if its layers are compiled and on a CPU. A linear layer has three products: its output, and the gradients
of its input and of its weights. Those of attention, which are small, are not measured alone. Steps, steps with clocks,
products and the optimizer by turns, in one process; writes NAME.json and NAME.md.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import nn

from benchmark.benchmark import SIZES
from benchmark.contenders.ours import OursOnText
from benchmark.measuring.command_line import positive, say
from benchmark.measuring.device_time import median_seconds, synchronize
from benchmark.measuring.machine import RESULTS, machine
from benchmark.measuring.step_lines import STEP, Line, lines_of
from benchmark.race.workload import configuration, endless, find_text, prepare, text_settings
from pytorch_dl.config import Config, get_config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.files import write_file, write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.precision import DTYPES
from pytorch_dl.training.trainer import OptimizedTrainer


class Product(NamedTuple):
    """One matrix product, (rows, inner) by (inner, columns); `turned` where the left factor lies transposed."""

    what: str
    rows: int
    inner: int
    columns: int
    turned: bool = False

    @property
    def flops(self) -> int:
        """2mnk."""
        return 2 * self.rows * self.inner * self.columns


def main() -> None:
    """Measure and write."""
    options = parser().parse_args()
    keep_freed_memory()
    preset, text = SIZES[options.size], text_settings(find_text(options.data), src_suffix="en", tgt_suffix="de")
    config = configuration(get_config(preset) if preset else Config(), text, options.settings)
    with tempfile.TemporaryDirectory() as scratch:
        work = prepare(config, Path(scratch), pairs_per_step=options.pairs_per_step)
        side = OursOnText(config, work.tokenizers, work.loader, run_dir=str(Path(scratch) / "run"))
        batches = endless(work.loader)
        for _ in range(options.warmup):
            side.step(next(batches))
        found: dict[str, Any] = {"machine": machine(), "size": options.size, "what": side.what}
        found |= measured(side, [next(batches) for _ in range(options.steps)], options.repeats)
    write_json(options.out / f"products-{options.size}.json", found)
    lines = table(found)
    write_file(options.out / f"products-{options.size}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="folder with train.en and train.de; the bundled dates without it")
    options.add_argument("--size", choices=sorted(SIZES), default="B", help="T: d 256, 3+3 layers; B: d 512, 6+6")
    options.add_argument("--pairs-per-step", type=positive, default=64)
    options.add_argument("--steps", type=positive, default=8, help="of training in a repeat")
    options.add_argument("--warmup", type=positive, default=3, help="steps before the first repeat")
    options.add_argument("--repeats", type=positive, default=5)
    options.add_argument("--out", type=Path, default=RESULTS)
    options.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="of the configuration")
    return options


def measured(side: OursOnText, batches: list[Batch], repeats: int) -> dict[str, Any]:
    """Milliseconds of a step, of its products, its optimizer and its lines; medians over the repeats."""
    products, trainer = products_of(side.model, batches[0]), side.trainer
    steps, optimizer = [], []
    lines: list[dict[str, Line]] = []
    alone: dict[Product, list[float]] = {product: [] for product in products}
    for repeat in range(repeats):
        say(f"repeat {repeat + 1} of {repeats}")
        steps.append(statistics.mean(seconds_of(partial(side.step, batch)) for batch in batches))
        if side.model.is_compiled and trainer.device.type == "cpu":
            lines.append(lines_of(side.model, [partial(side.step, batch) for batch in batches]))
        for product in products:
            alone[product].append(median_seconds(call_of(product, trainer), side.trainer.device))
        optimizer.append(optimizer_seconds(trainer))
    rows: list[dict[str, Any]] = []
    for product, times in products.items():
        taken = statistics.median(alone[product])
        each = {"ms": 1e3 * taken, "times": times, "ms_a_step": 1e3 * taken * times}
        rows.append({**product._asdict(), **each, "flops_per_s": product.flops / taken})
    step, multiplying = 1e3 * statistics.median(steps), sum(row["ms_a_step"] for row in rows)
    updating = 1e3 * statistics.median(optimizer)
    parts = {"products": multiplying, "optimizer": updating, "rest": step - multiplying - updating}
    found = {"step_ms": step, "parts_ms": parts, "products": rows, "all_steps_s": steps}
    return {**found, "lines": in_the_middle(lines)} if lines else found


def in_the_middle(repeats: list[dict[str, Line]]) -> dict[str, Any]:
    """The lines of the repeat whose steps took the median time: so they add up."""
    chosen = sorted(repeats, key=lambda lines: lines[STEP].seconds)[len(repeats) // 2]
    return {name: {"ms": 1e3 * line.seconds, "calls": line.calls} for name, line in chosen.items()}


def products_of(model: OptimizedTransformer, batch: Batch) -> Counter[Product]:
    """The products of the linear layers in a step on a batch, and how often each comes."""
    found = Counter[Product]()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            of_source = name.startswith("encoder") or name.endswith("cross_attention.kv_proj")
            rows = (batch.src if of_source else batch.tgt_in).numel()
            inner, columns = layer.in_features, layer.out_features
            found[Product("output", rows, inner, columns)] += 1
            found[Product("gradient of the input", rows, columns, inner)] += 1
            found[Product("gradient of the weights", columns, rows, inner, turned=True)] += 1
    return found


def call_of(product: Product, trainer: OptimizedTrainer) -> Callable[[], object]:
    """A call that computes it, in the training's precision."""
    options: dict[str, Any] = {"dtype": DTYPES[trainer.state.precision], "device": trainer.device}
    shape = (product.rows, product.inner)
    left = torch.randn(shape[::-1], **options).T if product.turned else torch.randn(shape, **options)
    if product.what == "output":  # by the weights as they lie: (columns, inner)
        return partial(torch.mm, left, torch.randn(product.columns, product.inner, **options).T)
    return partial(torch.mm, left, torch.randn(product.inner, product.columns, **options))


def optimizer_seconds(trainer: OptimizedTrainer) -> float:
    """Of the update from gradients that are there: their norm, the optimizer, and letting them go."""
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    totals, taken = torch.ones(2, dtype=torch.float64, device=trainer.device), []
    for _ in range(5):
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        update = partial(trainer.update.apply, totals, step=trainer.state.step, total_steps=10_000)
        taken.append(seconds_of(update))
    return statistics.median(taken)


def seconds_of(work: Callable[[], object]) -> float:
    """Of one call."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def table(found: dict[str, Any]) -> list[str]:
    """The result as tables of Markdown."""
    step, parts = found["step_ms"], found["parts_ms"]
    names = {
        "products": "matrix products of linear layers and loss, each alone",
        "optimizer": "the optimizer alone, with the norm of the gradients",
        "rest": "the rest: attention, activations, norms, dropout, loss, casts, Python",
    }
    lines = [f"| a step of size {found['size']} | ms | share |", "|---|---:|---:|"]
    lines += [f"| {names[name]} | {ms:,.1f} | {ms / step:.0%} |" for name, ms in parts.items()]
    lines += [f"| the step | {step:,.1f} | |", ""]
    if within := found.get("lines"):
        whole = within[STEP]["ms"]
        lines += ["| the same steps from within, with clocks | calls | ms | share |", "|---|---:|---:|---:|"]
        for name, line in within.items():
            lines.append(f"| {name} | {line['calls']:,.0f} | {line['ms']:,.1f} | {line['ms'] / whole:.1%} |")
        lines.append("")
    lines += ["| product | shape | times | ms each | TFLOP/s |", "|---|---|---:|---:|---:|"]
    for row in sorted(found["products"], key=lambda row: -row["ms_a_step"]):
        shape, rate = f"{row['rows']:,} x {row['inner']:,} x {row['columns']:,}", row["flops_per_s"] / 1e12
        lines.append(f"| {row['what']} | {shape} | {row['times']} | {row['ms']:.2f} | {rate:.2f} |")
    return lines


if __name__ == "__main__":
    main()
