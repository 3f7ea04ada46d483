"""How the cost of a training step grows: `python benchmark/growth.py [--quick] [--compile] [--out FOLDER]`.

Five sweeps around one base point: width, depth, length of sentences, vocabulary, tokens of a step. Token ids are drawn
at random and packed into rows as a training packs them. Writes growth.json and growth.png: real tokens a second, memory
and model FLOPs of each point, and all points under the machine's roofline.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pytorch_dl.process import fix_kernels

    fix_kernels()  # before torch is loaded, as the command line does

import torch

from benchmark.contenders.flops import step_flops
from benchmark.measuring.command_line import positive, say
from benchmark.measuring.compilation import each_shape_compiled
from benchmark.measuring.device_time import synchronize
from benchmark.measuring.machine import RESULTS, machine
from benchmark.measuring.roofline import Probe, Roof, least_bytes
from benchmark.race.report import rounded
from benchmark.sweeps.plot import write_plot
from benchmark.sweeps.sizes import FULL, QUICK, SEED, Point, Scale, packed_batches
from pytorch_dl.building import choose_device
from pytorch_dl.config.model_config import OptimizerConfig, TrainingConfig
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.files import write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.live_memory import peak_bytes
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.precision import DTYPES, Precision, choose_precision
from pytorch_dl.training.trainer import OptimizedTrainer

BATCHES = 4  # that a point's training goes through again and again
TOTAL_STEPS = 10_000
MEASURED = {
    "tokens_per_s": "real source and target tokens a second of whole training steps, batches prepared before",
    "memory_bytes": "peak of live tensors in a training step, less parameters, gradients and optimizer state",
    "flops_per_step": "matrix products of forward and backward pass, 3 * 2mnk, of real tokens; attention within a "
    "sentence only, without regard to the causal mask",
    "least_bytes_per_step": "parameters, gradients and both moments of Adam, each read once and written once: "
    "32 bytes a parameter in fp32; activations not counted",
    "intensity": "flops_per_step / least_bytes_per_step",
    "of_roofline": "FLOP/s / min(matrix rate, bandwidth * intensity)",
}


@dataclass(frozen=True)
class Setting:
    """What all points have in common."""

    device: torch.device
    precision: Precision  # chosen once: the choice is a timing, and could fall otherwise in a noisy moment
    compiled: bool


@dataclass
class Subject:
    """One point of a sweep, being measured."""

    value: int
    point: Point
    trainer: OptimizedTrainer
    batches: list[Batch]
    warmup_s: float = 0.0
    memory_bytes: int = 0
    tokens_per_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._endless = itertools.cycle(self.batches)

    def train(self, steps: int) -> tuple[float, int]:
        """Seconds and real tokens, source and target, of some steps."""
        tokens = 0
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            sums = self.trainer.train_step([next(self._endless)], total_steps=TOTAL_STEPS)
            tokens += sums.src_tokens + sums.tgt_tokens
        synchronize()
        return time.perf_counter() - start, tokens

    def as_json(self) -> dict[str, Any]:
        """All that is known of the point."""
        model, batch, speed = self.trainer.model, self.batches[0], median(self.tokens_per_s)
        tokens = batch.num_src_tokens + batch.num_tgt_tokens
        flops, moved = step_flops(model, batch), least_bytes(model)
        return {
            "value": self.value,
            "point": asdict(self.point),
            "parameters": model.num_parameters(),
            "shapes": {"src": list(batch.src.shape), "tgt": list(batch.tgt_in.shape)},
            "tokens_per_step": tokens,
            "tokens_per_s": {"median": speed, "repeats": self.tokens_per_s},
            "step_s": tokens / speed,
            "warmup_s": self.warmup_s,
            "memory_bytes": self.memory_bytes,
            "flops_per_step": flops,
            "flops_per_s": flops / tokens * speed,
            "least_bytes_per_step": moved,
            "intensity": flops / moved,
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, seconds: does it run?")
    parser.add_argument("--compile", action="store_true", help="compile the layers, as long trainings do")
    parser.add_argument("--repeats", type=positive, help=f"of each point, by turns ({FULL.repeats})")
    parser.add_argument("--steps", type=positive, help=f"of training in a repeat ({FULL.steps})")
    parser.add_argument("--out", type=Path, help="folder for growth.json and growth.png (benchmark/results)")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    scale = replace(scale, repeats=options.repeats or scale.repeats, steps=options.steps or scale.steps)
    out = options.out or (Path("runs/growth-quick") if options.quick else RESULTS)
    written = measure(scale, compiled=options.compile)
    for line in table(written):
        print(line)
    write_json(out / "growth.json", written)
    write_plot(out / "growth.png", written)
    print(f"\nwritten: {out / 'growth.json'}")


def measure(scale: Scale, *, compiled: bool) -> dict[str, Any]:
    """All sweeps, the machine's rates measured anew before each."""
    where = machine()
    kept = keep_freed_memory()
    device = choose_device("auto")
    setting = Setting(device, choose_precision(True, device), compiled)
    probe = Probe(device, DTYPES[setting.precision], scale.sizes[device.type], scale.mebibytes[device.type])
    roof = Roof()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in scale.sweeps:
        say(f"{name}: the machine's rates")
        roof.measure(probe, scale.repeats)
        found[name] = sweep(name, scale, setting)
    for point in itertools.chain.from_iterable(found.values()):
        point["of_roofline"] = point["flops_per_s"] / roof.attainable(point["intensity"])
    return {
        "machine": where,
        "settings": {
            **{"device": device.type, "precision": setting.precision, "compiled": compiled},
            **{"seed": SEED, "freed_memory_kept": kept},
            **{key: getattr(scale, key) for key in ("repeats", "steps", "warmup")},
            "base": asdict(scale.base),
            "model": scale.base.model.model_dump(),
            "roofline": {"sizes": probe.sizes, "mebibytes_a_tensor": probe.mebibytes},
        },
        "measured": MEASURED,
        "roofline": roof.as_json(),
        "sweeps": found,
    }


def sweep(name: str, scale: Scale, setting: Setting) -> list[dict[str, Any]]:
    """Measure the points of one sweep by turns, so that what else the machine does meets all alike."""
    points = {value: replace(scale.base, **{name: value}) for value in scale.sweeps[name]}
    subjects = [Subject(value, point, *prepared(point, setting)) for value, point in points.items()]
    with each_shape_compiled() if setting.compiled else nullcontext():
        for subject in subjects:
            say(f"{name} {subject.value:,}: warming up")
            subject.warmup_s, _ = subject.train(scale.warmup)
        for repeat in range(scale.repeats):
            say(f"{name}: repeat {repeat + 1} of {scale.repeats}")
            for subject in subjects if repeat % 2 == 0 else reversed(subjects):
                seconds, tokens = subject.train(scale.steps)
                subject.tokens_per_s.append(tokens / seconds)
        for subject in subjects:
            trainer = subject.trainer
            peak = peak_bytes(trainer.model, trainer.update.optimizer, partial(subject.train, 1))
            subject.memory_bytes = peak.activations
    return [subject.as_json() for subject in subjects]


def prepared(point: Point, setting: Setting) -> tuple[OptimizedTrainer, list[Batch]]:
    """Model, optimizer and batches of a point."""
    torch.manual_seed(SEED)
    size = point.vocabulary
    model = OptimizedTransformer(src_vocab_size=size, tgt_vocab_size=size, **point.model.model_dump())
    model.to(setting.device).train()
    if setting.compiled:
        model.compile_layers()
    training = TrainingConfig(mixed_precision=False if setting.precision == "fp32" else setting.precision)
    optimizer = make_optimizer(model, OptimizerConfig(), learning_rate=training.learning_rate)
    batches = packed_batches(point, BATCHES)
    return OptimizedTrainer(model, batches, None, optimizer, training=training, seed=SEED), batches


def table(written: dict[str, Any]) -> list[str]:
    """One aligned line for each point, and the machine's rates."""
    rows = [("sweep", "value", "parameters", "tokens/s", "memory MB", "GFLOP/step", "GFLOP/s", "of roofline")]
    for name, points in written["sweeps"].items():
        for point in points:
            numbers = (
                point["tokens_per_s"]["median"],
                point["memory_bytes"] / 1e6,
                point["flops_per_step"] / 1e9,
                point["flops_per_s"] / 1e9,
            )
            counted = f"{point['value']:,}", f"{point['parameters']:,}"
            rows.append((name, *counted, *map(rounded, numbers), f"{100 * point['of_roofline']:.1f} %"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    roof = written["roofline"]
    rate, bandwidth = roof["matrix_flops_per_s"] / 1e9, roof["bandwidth_bytes_per_s"] / 1e9
    return [
        *("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows),
        f"the machine: {rounded(rate)} GFLOP/s ({written['settings']['precision']}), {rounded(bandwidth)} GB/s",
    ]


if __name__ == "__main__":
    main()
