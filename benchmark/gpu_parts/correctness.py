"""Whether a GPU computes what it should: a small model's loss and gradients against float64 on the CPU.

Dropout is on throughout: its masks are a function of the tokens, and must be the same bits on both devices.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmark.gpu_parts.random_text import SEED, SPECIAL, pairs_for, random_pairs
from benchmark.gpu_parts.scale import Bench, Found
from benchmark.measuring.compilation import each_shape_compiled
from benchmark.measuring.device_time import relative_error
from pytorch_dl.dataset.batching import Batch, collate
from pytorch_dl.dataset.planning import Lengths, Planner
from pytorch_dl.models.dropout import Dropout, mix
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.objective import batch_loss, dropout_keys
from pytorch_dl.training.precision import Precision, autocast
from pytorch_dl.training.recorded_passes import RecordedPasses, can_record

LIMITS: dict[Precision, float] = {"fp32": 1e-5, "bf16": 2e-2}  # of the gradient's relative error
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Way:
    """One way to compute the loss."""

    attention: str
    precision: Precision
    compiled: bool = False


class Gradient(NamedTuple):
    """What is compared."""

    loss: Tensor
    vector: Tensor  # of all parameters, one after another


EAGER = [Way(attention, precision) for attention in ("auto", "sdpa", "plain") for precision in LIMITS]
COMPILED = [Way("auto", "bf16", True), Way("auto", "fp32", True)]


def correctness(bench: Bench, found: Found) -> None:
    """All checks; `passes` says whether all that were made hold."""
    packed, padded = both_layouts(bench)
    wanted = gradient(model_of(bench, Way("plain", "fp32")).double(), packed, "fp32", CPU)
    found["checks"] = checks = []

    def note(check: Found) -> None:
        checks.append(check)
        found["passes"] = all(check.get("passes", True) for check in checks)
        bench.say(f"  {check}")
        bench.save()

    for way in EAGER:
        note(checked(bench, way, packed, wanted))
    note(layouts_agree(bench, packed, padded))
    for check in same_bits(bench, packed):
        note(check)
    for check in dropout_checks(bench, packed):
        note(check)
    for way in COMPILED:
        if bench.compiled:
            note(checked(bench, way, packed, wanted))


def checked(bench: Bench, way: Way, batch: Batch, wanted: Gradient) -> Found:
    """One way against float64."""
    name = {"check": "loss and gradients against float64", **asdict(way)}
    if bench.time_left <= 0:
        return {**name, "skipped": "no time left"}
    model = model_of(bench, way)
    if not way.compiled:
        return {**name, **compared(gradient(model, batch, way.precision, bench.device), wanted, LIMITS[way.precision])}
    model.compile_layers()
    with each_shape_compiled():
        return {**name, **compared(gradient(model, batch, way.precision, bench.device), wanted, LIMITS[way.precision])}


def layouts_agree(bench: Bench, packed: Batch, padded: Batch) -> Found:
    """Packed rows give the loss and gradients of padded ones, dropout included."""
    model = model_of(bench, Way("sdpa", "fp32"))
    one, other = (gradient(copy.deepcopy(model), batch, "fp32", bench.device) for batch in (packed, padded))
    return {"check": "packed equals padded", **compared(one, other, LIMITS["fp32"])}


def same_bits(bench: Bench, batch: Batch) -> list[Found]:
    """Gradients are the same numbers each time, also when the passes are replayed."""
    model, batch = model_of(bench, Way("auto", "bf16")).to(bench.device).train(), batch.to(bench.device)
    once, again = (gradient(copy.deepcopy(model), batch, "bf16", bench.device).vector for _ in range(2))
    found: list[Found] = [{"check": "gradients again, bit by bit", "passes": torch.equal(once, again)}]
    if can_record(model, "bf16"):
        passes = RecordedPasses(model, precision="bf16", label_smoothing=0.1)
        for _ in range(2):
            model.zero_grad()
            passes(batch, dropout_keys(batch, seed=SEED, step=1), tokens=batch.num_tgt_tokens)
        replayed = flat_gradient(model)
        error = float((replayed - once).norm() / once.norm())
        found.append({"check": "gradients of replayed passes", "error": error, "passes": error < 1e-5})
    return found


def dropout_checks(bench: Bench, batch: Batch) -> list[Found]:
    """Keys and masks on the device are those of the CPU, bit by bit."""
    here, there = (dropout_keys(batch.to(device), seed=SEED, step=1)[0] for device in (CPU, bench.device))
    found: list[Found] = [{"check": "dropout keys, bit by bit", "passes": torch.equal(here, there.cpu())}]
    dropout = Dropout(0.1, bench.scale.small.d_model, site=1)
    x = torch.ones(*here.shape, bench.scale.small.d_model)
    wanted = dropout(x, mix(here + 1))
    on_device = copy.deepcopy(dropout).to(bench.device)
    for compiled in (False, True) if bench.compiled else (False,):
        run = torch.compile(on_device) if compiled else on_device
        masks = run(x.to(bench.device), mix(there + 1))
        passes = torch.equal(masks.cpu(), wanted)
        found.append({"check": "dropout masks, bit by bit", "compiled": compiled, "passes": passes})
    return found


def gradient(model: OptimizedTransformer, batch: Batch, precision: Precision, device: torch.device) -> Gradient:
    """Loss of a target token and its gradient, on a device."""
    model.to(device).train()
    batch = batch.to(device)
    with autocast(precision, device):
        loss = batch_loss(model, batch, label_smoothing=0.1, keys=dropout_keys(batch, seed=SEED, step=1))
    mean = loss.smoothed / batch.num_tgt_tokens
    mean.backward()  # type: ignore[no-untyped-call]
    return Gradient(mean.detach(), flat_gradient(model))


def flat_gradient(model: OptimizedTransformer) -> Tensor:
    """Of all parameters, on the CPU."""
    return torch.cat([p.grad.flatten().cpu().double() for p in model.parameters() if p.grad is not None])


def compared(found: Gradient, wanted: Gradient, limit: float) -> Found:
    """Errors of a loss and its gradient, and whether they are small enough."""
    loss, vector = map(relative_error, found, wanted)
    return {"loss_error": loss, "gradient_error": vector, "limit": limit, "passes": max(loss, vector) < limit}


def model_of(bench: Bench, way: Way) -> OptimizedTransformer:
    """The small model, of which all ways have the same weights."""
    torch.manual_seed(SEED)
    size = bench.scale.small_vocabulary
    sizes: dict[str, Any] = {"src_vocab_size": size, "tgt_vocab_size": size, **bench.scale.small.settings()}
    return OptimizedTransformer(**sizes, attention=way.attention)


def both_layouts(bench: Bench) -> tuple[Batch, Batch]:
    """The same pairs packed into one batch, and padded."""
    pairs = pairs_for(bench.scale.small_tokens)
    src, tgt = random_pairs(pairs, vocabulary=bench.scale.small_vocabulary)
    lengths = Lengths(*(side.offsets[1:] - side.offsets[:-1] + 1 for side in (src, tgt)))
    plans = (
        Planner(
            lengths,
            lengths.src.argsort(),
            [(0, pairs, 1.0)],
            seed=SEED,
            max_tokens=1 << 20,
            batch_size=None if packed else pairs,
            packed=packed,
        ).plan(0)
        for packed in (True, False)
    )
    packed, padded = (collate(plan, 0, src, tgt, SPECIAL) for plan in plans)
    return packed, padded
