"""A rung of the ladder: which optimisations are switched on, and a model and its loop with them.

Shapes: B batch, T target, V vocabulary.
"""

import statistics
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional as F

from benchmark.race.workload import Workload, endless
from benchmark.rungs.separate import SeparateProjections
from pytorch_dl.config.model_config import ModelConfig, OptimizerConfig
from pytorch_dl.dataset.batching import IGNORED_LABEL, Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer, Side
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
