"""Training steps of a naive loop, of this project and of others: speed, utilisation of the GPU, peak memory.

Everybody trains on the same random pairs, with about as many real tokens a step; batches are prepared before.
"""

import gc
import importlib.util
import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmark.contenders.baseline import Baseline
from benchmark.contenders.flops import step_flops
from benchmark.contenders.hf_trainer import HuggingFaceTrainer
from benchmark.contenders.ours import Ours
from benchmark.contenders.peers import PEERS, found_peers
from benchmark.contenders.side import Side
from benchmark.gpu_parts.random_text import SEED, SPECIAL, Layout, batches, pairs_for
from benchmark.gpu_parts.random_text import loader as random_loader
from benchmark.gpu_parts.scale import Bench, Found
from benchmark.measuring.compilation import each_shape_compiled
from benchmark.measuring.device_time import synchronize
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.trainer import OptimizedTrainer

NAIVE, EAGER, COMPILED, PLAIN = "naive", "ours", "ours, compiled", "ours, compiled, plain attention"
TRAINER = "hf-trainer"


@dataclass(frozen=True)
class Entry:
    """Who trains what, on batches of how many target tokens."""

    preset: str
    name: str
    tokens: int

    @property
    def layout(self) -> Layout:
        """The batches that this one is best trained on, or used to be."""
        return "random" if self.name == NAIVE else "packed" if self.name.startswith(EAGER) else "bucketed"

    @property
    def compiled(self) -> bool:
        """Whether it is compiled first."""
        return self.name in (COMPILED, PLAIN)


def steps(bench: Bench, found: Found) -> None:
    """Measure all entries, the most important first; what ran out of memory is not tried with more tokens."""
    found["counted"] = "real tokens of both sides; 3 * 2mnk of all matrix products on them"
    found["peak_flops_per_s"] = bench.peak_flops
    found["results"] = results = []
    full: dict[tuple[str, str], int] = {}
    for entry in entries(bench):
        result: Found = {"preset": entry.preset, "side": entry.name, "target_tokens": entry.tokens}
        most = full.get((entry.preset, entry.name), entry.tokens + 1)
        if entry.tokens >= most:
            result["skipped"] = f"out of memory at {most:,} tokens"
        elif bench.time_left <= 0:
            result["skipped"] = "no time left"
        else:
            result |= result_of(entry, bench)
        if result.get("out_of_memory"):
            full[entry.preset, entry.name] = entry.tokens
        results.append(result)
        bench.say(f"  {said(result)}")
        bench.save()


def entries(bench: Bench) -> list[Entry]:
    """Ours at all numbers of tokens, then the others at the first, Hugging Face's at all: the most important first."""
    scale, first = bench.scale, bench.scale.tokens[:1]
    peers = [name for name in ("marian", "torch.nn") if name in found_peers()]
    ours, trainer = COMPILED if bench.compiled else EAGER, [TRAINER] if "marian" in peers and has_trainer() else []
    kinds = [(ours, scale.tokens), *((name, first) for name in (NAIVE, *trainer, *peers))]
    kinds += [(name, scale.tokens[1:]) for name in peers[:1]]
    if bench.compiled:
        kinds += [(EAGER, first), (PLAIN, first)]
    return [Entry(preset, name, size) for name, sizes in kinds for size in sizes for preset in scale.presets]


def has_trainer() -> bool:
    """Whether Hugging Face's Trainer has all that it needs."""
    return importlib.util.find_spec("accelerate") is not None


def result_of(entry: Entry, bench: Bench) -> Found:
    """The figures of an entry, or what went wrong; what it held of the GPU's memory is free again afterwards."""
    try:
        if entry.name == TRAINER:
            return measured_trainer(entry, bench)
        with ExitStack() as stack:
            if entry.compiled:
                stack.enter_context(each_shape_compiled())
            return measured(side_of(entry, bench), batches_of(entry, bench), bench)
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": True, "failed": str(error).partition(". ")[0]}
    except Exception as error:  # the others are measured all the same
        return {"failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    finally:
        release(bench)


def release(bench: Bench) -> None:
    """Give the memory of what is no longer used back to the GPU."""
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()


def side_of(entry: Entry, bench: Bench) -> Side:
    """A new model and its loop."""
    config, size = configuration(entry, bench), bench.scale.vocabulary
    if entry.name.startswith(EAGER):
        return ours(config, vocabulary=size, device=bench.device)
    special: dict[str, Any] = {"vocab_size": size, "pad_id": SPECIAL.pad_id, "device": bench.device}
    if entry.name == NAIVE:
        return Baseline(config, bos_id=SPECIAL.bos_id, **special)
    return PEERS[entry.name](config, **special)


def ours(config: Config, *, vocabulary: int, device: torch.device) -> Ours:
    """This project's trainer on a model of its own."""
    torch.manual_seed(SEED)
    with device:  # to draw hundreds of millions of numbers on a CPU takes seconds
        model = OptimizedTransformer(src_vocab_size=vocabulary, tgt_vocab_size=vocabulary, **config.model.model_dump())
    model.to(device).train()
    optimizer = make_optimizer(model, config.optimizer, learning_rate=1e-4)
    trainer = OptimizedTrainer(model, [], None, optimizer, training=config.training, seed=SEED)
    return Ours(trainer, config, packed=True)


def configuration(entry: Entry, bench: Bench) -> Config:
    """The settings of an entry: bf16 for all who have a choice, no other than the defaults."""
    model: dict[str, Any] = {**bench.scale.presets[entry.preset].settings(), "pad_token_id": SPECIAL.pad_id}
    if entry.name == PLAIN:
        model["attention"] = "plain"
    return Config().update(
        model=model, training={"mixed_precision": "bf16"}, system={"compile": entry.compiled, "seed": SEED}
    )


def batches_of(entry: Entry, bench: Bench) -> list[Batch]:
    """Batches, in page-locked memory where there is a GPU, as a loader has them."""
    scale = bench.scale
    found = batches(entry.layout, tokens=entry.tokens, count=scale.batches, vocabulary=scale.vocabulary)
    return [batch.pin_memory() for batch in found] if bench.on_gpu else found


def measured(side: Side, rows: list[Batch], bench: Bench) -> Found:
    """Train for a while."""
    endless, scale = itertools.cycle(rows), bench.scale
    work = {id(batch): (real_tokens(batch), step_flops(side.model, batch)) for batch in rows}
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()  # before the warm-up, in which what is replayed later takes its memory
    warmup_s, _ = train(side, endless, len(rows))  # memory for all their shapes
    step_s, _ = train(side, endless, 1)
    count = min(scale.most_steps, max(1, math.ceil(scale.seconds / step_s)))
    speeds, rates, loss = [], [], 0.0
    for _ in range(scale.repeats):
        chosen = list(itertools.islice(endless, count))
        seconds, loss = train(side, iter(chosen), count)
        tokens, flops = (sum(part) for part in zip(*(work[id(batch)] for batch in chosen), strict=True))
        speeds.append(tokens / seconds)
        rates.append(flops / seconds)
    real, positions = sum(map(real_tokens, rows)), sum(batch.num_positions for batch in rows)
    return {
        "tokens_per_s": median(speeds),
        "utilisation": median(rates) / bench.peak_flops,
        "flops_per_s": median(rates),
        "step_ms": 1000 * real / len(rows) / median(speeds),
        "peak_bytes": torch.cuda.max_memory_allocated() if bench.on_gpu else None,
        "real_tokens_per_step": real / len(rows),
        "efficiency": real / positions,
        "warmup_s": warmup_s,
        "loss": loss,
        "repeats": {"tokens_per_s": speeds, "steps": count},
        "parameters": sum(parameter.numel() for parameter in side.model.parameters()),
    }


def measured_trainer(entry: Entry, bench: Bench) -> Found:
    """Hugging Face's own Trainer, which makes its batches itself: in whole groups, whose longest pairs come first."""
    scale, config, pairs = bench.scale, configuration(entry, bench), pairs_for(entry.tokens)
    text = random_loader(tokens=entry.tokens, count=(1 + scale.repeats) * scale.grouped, vocabulary=scale.vocabulary)
    sizes = {"vocab_size": scale.vocabulary, "pad_id": SPECIAL.pad_id, "pairs_per_step": pairs}
    with tempfile.TemporaryDirectory() as folder:
        side = HuggingFaceTrainer(config, loader=text, folder=folder, **sizes)
        if bench.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        side.train(scale.grouped)
        warmup_s = time.perf_counter() - start
        speeds = [side.train(scale.grouped) for _ in range(scale.repeats)]
        side.stop()
    return {
        "tokens_per_s": median(speed for speed, _ in speeds),
        "peak_bytes": torch.cuda.max_memory_allocated() if bench.on_gpu else None,
        "efficiency": side.efficiency,
        "warmup_s": warmup_s,
        "loss": speeds[-1][1],
        "repeats": {"tokens_per_s": [speed for speed, _ in speeds], "steps": scale.grouped},
        "parameters": sum(parameter.numel() for parameter in side.model.parameters()),
    }


def train(side: Side, rows: Iterator[Batch], count: int) -> tuple[float, float]:
    """Seconds of some steps, and the last loss."""
    loss = 0.0
    synchronize()
    start = time.perf_counter()
    for batch in itertools.islice(rows, count):
        loss = side.step(batch)
    synchronize()
    return time.perf_counter() - start, loss


def real_tokens(batch: Batch) -> int:
    """Of both sides."""
    return batch.num_src_tokens + batch.num_tgt_tokens


def said(result: Found) -> str:
    """A result in a line."""
    name = f"{result['preset']}, {result['side']}, {result['target_tokens']:,} tokens"
    if "tokens_per_s" not in result:
        return f"{name}: {result.get('failed') or result.get('skipped')}"
    memory = f", {result['peak_bytes'] / 1e9:.1f} GB" if result["peak_bytes"] else ""
    share = f", {100 * result['utilisation']:.2f} %, {result['step_ms']:.1f} ms" if "utilisation" in result else ""
    return f"{name}: {result['tokens_per_s']:,.0f} tokens/s{share}{memory}"
