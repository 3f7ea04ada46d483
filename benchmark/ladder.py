"""The ladder: each optimisation switched on in turn, and taken away from the whole; `python benchmark/ladder.py`.

The lowest rung is our own plain Transformer of 2017: post-norm, ReLU, LayerNorm, sinusoidal positions, biases, fp32,
random padded batches, all logits, torch's dropout, unfused Adam. Variations of the whole (activation, norm, separate
projections, checkpointing) stand beside it at equal parameters, with the loss after equal batches. All by turns, in one
process; writes NAME.json, NAME.md and NAME.png.

Shapes: B batch, T target, V vocabulary.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch._dynamo
from torch.nn import functional as F

from benchmark.measuring.machine import RESULTS, machine
from benchmark.measuring.memory import peak_bytes
from benchmark.race.by_turns import turns
from benchmark.race.measures import TURN_STEPS
from benchmark.race.workload import Workload, configuration, endless, find_text, prepare, text_settings
from benchmark.rungs.plot import write_ladder
from benchmark.rungs.separate import SeparateProjections
from pytorch_dl.config import get_config
from pytorch_dl.config.model_config import ModelConfig, OptimizerConfig
from pytorch_dl.dataset.batching import IGNORED_LABEL, Batch
from pytorch_dl.files import write_file, write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.objective import batch_loss, dropout_keys
from pytorch_dl.training.optimizer import gradient_norm, make_optimizer
from pytorch_dl.training.precision import autocast

PLAIN_2017: dict[str, Any] = {
    "activation": "relu",
    "norm_type": "layernorm",
    "norm_first": False,
    "positions": "sinusoidal",
    "bias": True,
    "attention": "plain",
}
LEARNING_RATE = 5e-4


@dataclass(frozen=True)
class Switches:
    """What is switched on."""

    modern_layers: bool = False
    like_lengths: bool = False
    bf16: bool = False
    fused_optimizer: bool = False
    loss_in_chunks: bool = False
    hashed_dropout: bool = False
    packed_rows: bool = False
    compiled_layers: bool = False
    checkpointing: bool = False
    model: dict[str, Any] = field(default_factory=dict)  # settings in place of the default ones
    separate_projections: bool = False


STEPS = (
    ("modern_layers", "pre-norm, RMSNorm, SwiGLU, RoPE, no biases"),
    ("like_lengths", "batches of like lengths"),
    ("bf16", "bf16 products"),
    ("fused_optimizer", "fused AdamW"),
    ("loss_in_chunks", "projection and loss in chunks"),
    ("hashed_dropout", "hashed dropout"),
    ("packed_rows", "rows packed with several pairs"),
    ("compiled_layers", "layers compiled"),
)


def rungs(*, compiled: bool) -> dict[str, Switches]:
    """By name: the ladder, the whole without each part, and its variations."""
    steps = [step for step in STEPS if compiled or step[0] != "compiled_layers"]
    found = {"plain Transformer of 2017": Switches()}
    now = Switches()
    for name, what in steps:
        now = replace(now, **{name: True})
        found[f"+ {what}"] = now
    for name, what in steps:
        without = replace(now, **{name: False})
        if name in ("like_lengths", "packed_rows"):
            continue  # packed rows are of no length of their own; without them there is no shape to compile
        found[f"whole without {what}"] = without
    for name, settings in (
        ("ReLU", {"activation": "relu"}),
        ("GELU", {"activation": "gelu"}),
        ("LayerNorm", {"norm_type": "layernorm"}),
    ):
        found[f"whole with {name}"] = replace(now, model=settings)
    found["whole with separate projections"] = replace(now, separate_projections=True)
    found["whole with checkpointing"] = replace(now, checkpointing=True)
    return found


class Rung:
    """A model and its loop with these switches."""

    def __init__(self, name: str, on: Switches, work: Workload) -> None:
        self.name, self.on = name, on
        settings = work.config.model.model_dump() | ({} if on.modern_layers else PLAIN_2017) | on.model
        settings["use_checkpointing"] = on.checkpointing
        model = ModelConfig.model_validate(settings)
        torch.manual_seed(work.config.system.seed)
        size = work.tokenizers.tgt.vocab_size
        self.model = OptimizedTransformer(src_vocab_size=size, tgt_vocab_size=size, **model.__dict__).train()
        if on.separate_projections:
            SeparateProjections.replace_in(self.model)
        if on.compiled_layers:
            self.model.compile_layers()
        options = OptimizerConfig()
        self.optimizer = make_optimizer(self.model, options, learning_rate=LEARNING_RATE)
        if not on.fused_optimizer:
            for group in self.optimizer.param_groups:
                group["fused"], group["foreach"] = False, False
        packed = work.loader if on.packed_rows else work.bucketed if on.like_lengths else work.plain
        self.batches = endless(packed)
        self.smoothing, self.steps = work.config.training.label_smoothing, 0

    def step(self, batch: Batch) -> float:
        """One step of training; returns the negative log-likelihood of a target token."""
        self.steps += 1
        keys = dropout_keys(batch, seed=1, step=self.steps) if self.on.hashed_dropout else (None, None)
        with autocast("bf16" if self.on.bf16 else "fp32", batch.src.device):
            loss, nll = self._loss(batch, keys)
        (loss / batch.num_tgt_tokens).backward()  # type: ignore[no-untyped-call]
        norm = gradient_norm(self.model.parameters())
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), 1.0, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return nll.item() / batch.num_tgt_tokens

    def _loss(self, batch: Batch, keys: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if self.on.loss_in_chunks:
            return batch_loss(self.model, batch, label_smoothing=self.smoothing, keys=keys)
        hidden = self.model.hidden(
            Side(batch.src, batch.src_segments, batch.src_positions, keys[0]),
            Side(batch.tgt_in, batch.tgt_segments, batch.tgt_positions, keys[1]),
        )
        logits, labels = self.model.project(hidden).flatten(0, 1), batch.labels.flatten()  # (B * T, V)
        common: dict[str, Any] = {"ignore_index": IGNORED_LABEL, "reduction": "sum"}
        loss = F.cross_entropy(logits, labels, **common, label_smoothing=self.smoothing)
        with torch.no_grad():
            nll = F.cross_entropy(logits, labels, **common)
        return loss, nll

    def run(self, steps: int) -> tuple[float, float]:
        """Real tokens a second of so many steps, batches made meanwhile; and the mean loss of a token."""
        tokens, losses = 0, []
        start = time.perf_counter()
        for _ in range(steps):
            batch = next(self.batches)
            losses.append(self.step(batch))
            tokens += batch.num_src_tokens + batch.num_tgt_tokens
        return tokens / (time.perf_counter() - start), statistics.mean(losses)


def main(argv: Sequence[str] | None = None) -> int:
    """Climb the ladder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.en and train.de; the bundled dates when left out")
    parser.add_argument("--pairs-per-step", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="training steps in a repeat")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--name", default="ladder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args(argv)
    where = machine()
    keep_freed_memory()
    torch._dynamo.config.recompile_limit = 64  # the rungs share the code of the layers
    text = text_settings(find_text(options.data), src_suffix="en", tgt_suffix="de")
    config = configuration(get_config("tiny"), text, [*options.settings, "system.compile=false"])
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
    """Speed of all rungs by turns, the memory of a step, and the loss of the last repeat."""
    speeds: dict[str, list[float]] = {rung.name: [] for rung in ladder}
    losses: dict[str, float] = {}
    warmup: dict[str, float] = {}
    for rung in ladder:
        start = time.perf_counter()
        rung.run(3)
        warmup[rung.name] = time.perf_counter() - start
        print(f"warm: {rung.name}", file=sys.stderr, flush=True)
    for repeat in range(repeats):
        for rung in turns(ladder, repeat):
            rung.run(TURN_STEPS)
            speed, losses[rung.name] = rung.run(steps)
            speeds[rung.name].append(speed)
        print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    rows = []
    for rung in ladder:
        batch = next(rung.batches)
        peak = peak_bytes(rung.model, rung.optimizer, lambda rung=rung, batch=batch: rung.step(batch))  # type: ignore[misc]
        rows.append(
            {
                "name": rung.name,
                "switches": asdict(rung.on),
                "parameters": rung.model.num_parameters(),
                "tokens_per_s": speeds[rung.name],
                "warmup_s": warmup[rung.name],
                "activations_mb": peak.activations / 1e6,
                "total_mb": peak.total / 1e6,
                "loss_of_last_repeat": losses[rung.name],
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """A table with the ratios to the lowest rung and, for what stands beside the whole, to the whole."""
    plain, whole = rows[0], next(row for row in reversed(rows) if row["name"].startswith("+"))
    lines = [
        "| | tokens/s | × plain | × whole | activations MB | × plain | loss after equal batches |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        speed = statistics.median(row["tokens_per_s"])
        ratios = [speed / statistics.median(other["tokens_per_s"]) for other in (plain, whole)]
        share = row["activations_mb"] / plain["activations_mb"]
        lines.append(
            f"| {row['name']} | {speed:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {row['activations_mb']:,.0f} | "
            f"{share:.2f} | {row['loss_of_last_repeat']:.3f} |"
        )
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
