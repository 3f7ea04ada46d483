"""Training measured: `python benchmark/benchmark.py [--size T|B] [--data FOLDER] [SETTING...]`.

Side by side and by turns, each in a process of its own, what contenders/ holds: a plain Transformer of 2017
(baseline.py), tuned loops around others' models (peers.py) and Hugging Face's trainer (hf_trainer.py), as far as they
are installed, and this project (ours.py); of the same size, on the same text, with as many pairs a step. Answers the
specification's four claims as well. With --again, what it costs and saves to compute activations again in the backward
pass. Prints tables; writes NAME.json, NAME.md and NAME.png.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: the checkout's root takes the place of this folder among the places of modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmark import growth
from benchmark.contenders.peers import found_peers
from benchmark.measuring.command_line import positive, say
from benchmark.measuring.machine import machine
from benchmark.race.by_turns import CLAIMED, Amount, Figures, measure
from benchmark.race.contender import Contender, save
from benchmark.race.measures import TURN_STEPS
from benchmark.race.report import again_lines, claims_of, table, trainers_of, trainers_table, write_plot
from benchmark.race.workload import DATES, OURS, Workload, configuration, find_text, prepare, text_settings
from pytorch_dl.config import Config, get_config
from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.dataset.efficient_dataloader import texts_of
from pytorch_dl.errors import ConfigError, UserError
from pytorch_dl.files import write_file, write_json

SIZES = {"T": "tiny", "B": None}  # B: the default model, d_model 512 with 6 + 6 layers
MEASURED = {
    "memory": "peak of live tensors in a training step, less parameters, gradients and optimizer state",
    "training speed": "real (not padding) source and target tokens a second, preparation of batches included",
    "inference speed": "greedy search, the same sentences in the same batches, as many new tokens for each; fp32",
    "batch efficiency": "real tokens / all positions, both sides, over an epoch",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code, which does not depend on whether the claims hold."""
    words = sys.argv[1:] if argv is None else list(argv)
    if "--memory" in words:
        growth.main([word for word in words if word != "--memory"])
        return 0
    options = parser().parse_args(words)
    try:
        results = run(options)
    except UserError as error:
        print(f"benchmark: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"\nwritten: {results}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = found.add_mutually_exclusive_group()
    size.add_argument("--preset", choices=sorted(TEMPLATES), help="template of the configuration")
    size.add_argument("--size", choices=sorted(SIZES), default="T", help="T: d 256, 3+3 layers; B: d 512, 6+6")
    found.add_argument("--data", type=Path, help="folder with train.SUFFIX of both sides, plain or compressed")
    found.add_argument("--src-suffix", default="en")
    found.add_argument("--tgt-suffix", default="de")
    found.add_argument("--pairs-per-step", type=positive, default=64, help="and sentences in a batch of inference")
    found.add_argument("--repeats", type=positive, default=5)
    found.add_argument("--steps", type=positive, default=10, help="training steps in a repeat")
    found.add_argument("--warmup", type=positive, default=5, help="training steps before the first repeat")
    found.add_argument("--new-tokens", type=int, default=0, help="of each sentence; 0: the mean length of a target")
    found.add_argument("--memory", action="store_true", help="how speed and memory grow with size: growth.py instead")
    some = found.add_mutually_exclusive_group()
    some.add_argument("--only-claims", action="store_true", help="leave out all but the baseline and ours")
    some.add_argument("--again", action="store_true", help="the same, and ours where it computes activations again")
    found.add_argument("--name", default="results", help="of the files that are written")
    found.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    found.add_argument("settings", nargs="*", metavar="SECTION.KEY=VALUE", help="of ours, as data.layout=packed")
    return found


def run(options: argparse.Namespace) -> Path:
    """Measure, print and write; returns the path of the JSON file."""
    folder = find_text(options.data)
    preset = options.preset or SIZES[options.size]
    text = text_settings(folder, src_suffix=options.src_suffix, tgt_suffix=options.tgt_suffix)
    config = configuration(get_config(preset) if preset else Config(), text, options.settings)
    where = machine()
    amount = Amount(options.repeats, options.steps, options.warmup, options.new_tokens)
    if amount.new_tokens > (limit := config.model.max_seq_len):
        raise ConfigError(f"--new-tokens is {amount.new_tokens}", fix=f"at most model.max_seq_len ({limit})")
    with tempfile.TemporaryDirectory() as name:
        work = prepare(config, Path(name), pairs_per_step=options.pairs_per_step)
        save(work)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(name) / "compiled")  # nothing is compiled already
        with ExitStack() as stack:
            names = contenders(only_claims=options.only_claims, again=options.again)
            sides = []
            for side in names:  # one after another: what one decides by timing must not depend on the others' start
                sides.append(stack.enter_context(Contender(side, work)))
                sides[-1].describe()
            figures = measure(work, sides, amount, say=say)
    size = " ".join([preset or "default model", *options.settings])
    compared = _compared(work, figures, folder.resolve().name if folder else DATES, size)
    claims = claims_of(figures)
    trainers = trainers_of(
        figures,
        warmup_steps=amount.warmup,
        tokens_a_step=figures.epochs["baseline"].real_tokens / figures.epochs["baseline"].batches,
    )
    lines = [*trainers_table(trainers), "", *_other_lines(figures)]
    for line in [*_said(where, compared, amount), "", *lines, "", *table(claims)]:
        print(line)
    written = {
        "machine": where,
        "compared": compared,
        "settings": amount._asdict(),
        "measured": MEASURED,
        "trainers": [asdict(trainer) for trainer in trainers],
        "claims": [claim.as_json() for claim in claims],
        "roof": figures.roof.as_json(),
        "peak_rss": {name: found._asdict() for name, found in figures.resident.items()} or None,
        "loss_per_token": figures.losses,
    }
    write_json(options.out / f"{options.name}.json", written)
    write_file(
        options.out / f"{options.name}.md", "\n".join([*_said(where, compared, amount, prefix="- "), "", *lines, ""])
    )
    title = f"{compared['size']}, {compared['text']}, {where['cpu'] if where['gpu'] == 'none' else where['gpu']}"
    write_plot(options.out / f"{options.name}.png", claims, trainers, title)
    return Path(options.out / f"{options.name}.json")


def contenders(*, only_claims: bool, again: bool) -> list[str]:
    """Who is compared: those that are installed."""
    if again:
        return ["baseline", *OURS]
    if only_claims:
        return list(CLAIMED)
    trainer = ["hf-trainer"] if all(map(importlib.util.find_spec, ("transformers", "accelerate"))) else []
    return ["baseline", *trainer, *found_peers(), "ours"]


def _compared(work: Workload, figures: Figures, text: str, size: str) -> dict[str, Any]:
    """What the sides are, in words and numbers."""
    model = work.config.model
    found: dict[str, Any] = {
        "text": text,
        "text_sha256": texts_of(work.config.data, seed=work.config.system.seed).train[0].fingerprint(),
        "vocabulary": f"{work.tokenizers.tgt.vocab_size:,} tokens ({work.config.data.tokenizer_name})",
        "size": f"d_model {model.d_model}, {model.num_encoder_layers}+{model.num_decoder_layers} layers ({size})",
        "new_tokens": figures.new_tokens,
        "sides": {},
    }
    for name, side in figures.sides.items():
        epoch = figures.epochs[name]
        found["sides"][name] = {
            **side._asdict(),
            "pairs_per_step": epoch.pairs / epoch.batches,
            "epoch": epoch._asdict(),
        }
    config = work.config.model_dump()
    config["data"]["train_data_path"] = text  # the place on this machine is nobody's business
    return {**found, "config": config}


def _said(where: dict[str, Any], compared: dict[str, Any], amount: Amount, *, prefix: str = "") -> list[str]:
    """What was compared, where and how: aligned lines, or with a prefix one line for each fact."""
    gpu = "" if where["gpu"] == "none" else f", {where['gpu']}"
    facts = {
        "machine": f"{where['cpu']} ({where['cpu_capability']}), {where['cpu_threads']} threads{gpu}; "
        f"load {where['load_average_before']} before; torch {where['torch']}, Python {where['python']}",
        "commit": f"{where['commit']}{' with changes' if where['uncommitted_changes'] else ''}, {where['date']}",
        "text": f"{compared['text']}; {compared['vocabulary']}",
        "size": compared["size"],
    }
    for name, side in compared["sides"].items():
        numbers = f"{side['parameters']:,} parameters, {side['pairs_per_step']:.1f} pairs a step"
        facts[name] = f"{side['what']}; {numbers}"
    facts |= {
        "figures": f"medians of {amount.repeats} repeats of all sides by turns, each in a process of its own, all with "
        f"freed memory kept for the next step's tensors; {amount.steps} training steps each, "
        f"after {amount.warmup} steps to warm up, {TURN_STEPS} at each turn; {compared['new_tokens']} new tokens for "
        "each sentence",
        **MEASURED,
        "specification": "never measured, and silent about what its original was: what is compared stands above",
    }
    if prefix:
        return [f"{prefix}{name}: {fact}" for name, fact in facts.items()]
    return [line for name, fact in facts.items() for line in _wrapped(name, fact)]


def _wrapped(name: str, fact: str) -> list[str]:
    return textwrap.wrap(fact, 120, initial_indent=f"{name:<18}", subsequent_indent=" " * 18)


def _other_lines(figures: Figures) -> list[str]:
    """The matrix rate and the resident memory."""
    lines = [
        f"matrix rate: {figures.roof.matrix_rate / 1e12:.2f} TFLOP/s in bf16, measured once in each repeat; products: "
        "those of a training step, 3 * 2mnk, of real tokens only",
        "resident memory: the peak of the process in its first steps, and what of it came with them (gradients, "
        "optimizer state, activations, compilation, what libraries keep)",
    ]
    for name, resident in figures.resident.items():
        lines.append(f"  {name}: {resident.peak_mb:,.0f} MB, {resident.by_training_mb:,.0f} MB with the steps")
    return [*lines, *again_lines(figures)]


if __name__ == "__main__":
    raise SystemExit(main())
