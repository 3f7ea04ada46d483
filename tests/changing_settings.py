"""Each setting with another value, and how to see that it makes a difference."""

import hashlib
import io
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rich.console import Console
from tiny_runs import TINY, pairs, write_tsv
from torch._functorch import config as functorch

from pytorch_dl.building import choose_device
from pytorch_dl.config import Config
from pytorch_dl.config.load import checked, with_overrides, with_values
from pytorch_dl.config.model_config import Section
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.errors import UserError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.run import begin, finish
from pytorch_dl.training.background import Background
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.trainer import create_trainer

Settings = Mapping[str, Any]
Seen = Mapping[str, object]
Observe = Callable[[Config], Seen]

TEXTS = {
    "data.train_data_path": "a.tsv",
    "data.val_data_path": "val.tsv",
    "data.max_tokens_per_batch": 100,
    "training.max_steps": 6,
    "training.eval_every": 3,
    "scheduler.warmup": 2,
}


class Change(NamedTuple):
    """The base, the other value, how to look, and what of the seen must differ."""

    base: Settings
    value: object
    observe: Observe
    part: str


def model(config: Config) -> Seen:
    """Sizes and outputs of the model, the kernels it calls, and how much it keeps for the backward pass."""
    torch.manual_seed(1)
    made = OptimizedTransformer(src_vocab_size=12, tgt_vocab_size=12, **config.model.__dict__)
    src, tgt = torch.tensor([[4, 3, 5, 0], [6, 7, 8, 9]]), torch.tensor([[1, 3, 5, 0, 0], [1, 6, 7, 8, 9]])
    kept: list[int] = []
    kernels: list[str] = []
    fused = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            torch.nn.functional,
            "scaled_dot_product_attention",
            lambda *args, **options: kernels.append("fused") or fused(*args, **options),
        )
        written = made.eval()(src, tgt)
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        trained = made.train()(src, tgt)
    unchanged = {"activation_memory_budget": 1.0, "aggressive_recomputation": False}
    with pytest.MonkeyPatch.context() as patched, functorch.patch(unchanged):
        patched.setattr(torch, "compile", lambda layer: layer)
        made.compile_layers()
        budget = functorch.activation_memory_budget
    return {
        "budget": budget,
        "parameters": [(name, tuple(parameter.shape)) for name, parameter in made.named_parameters()],
        "output": written.tolist(),
        "training output": trained.tolist(),
        "kept": sum(kept),
        "kernels": kernels,
        "longest": accepted(made),
    }


def accepted(made: OptimizedTransformer) -> int:
    def takes(length: int) -> bool:
        try:
            made.side(torch.ones(1, length, dtype=torch.long))
        except ValueError:
            return False
        return True

    return max(length for length in range(1, 100) if takes(length))


def batches(config: Config) -> Seen:
    """The texts in batches, the vocabulary, and what the loader does meanwhile."""
    said: list[str] = []
    pinned: list[bool] = []
    submitted: list[int] = []  # for each piece of work, how many threads there may be for it
    data = DataModule(
        data=config.data, batch_size=config.training.batch_size, seed=config.system.seed, report=said.append
    )
    submit = ThreadPoolExecutor.submit
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            ThreadPoolExecutor, "submit", lambda *args: submitted.append(args[0]._max_workers) or submit(*args)
        )
        patched.setattr(torch.cuda, "is_available", lambda: True)
        patched.setattr(Batch, "pin_memory", lambda batch: pinned.append(True) or batch)
        data.setup()
        loader, val = data.train_dataloader(), data.val_dataloader()
        first = next(iterator := loader.batches(0))
        ahead, threads = len(submitted), max(submitted, default=0)
        every, validation = [first, *iterator, *loader.batches(1)], [*(val or [])]
    tokenizers = data.tokenizers
    return {
        "text": [tokenizers.src.decode_batch(batch.src.tolist()) for batch in every],
        "targets": [tokenizers.tgt.decode_batch(batch.tgt_in.tolist()) for batch in every],
        "validation": [tokenizers.tgt.decode_batch(batch.tgt_in.tolist()) for batch in validation],
        "vocabulary": data.vocab_sizes,
        "tokens": [tokenizers.src.token(id) for id in range(tokenizers.src.vocab_size)],
        "shared": tokenizers.shared,
        "shapes": [(tuple(batch.src.shape), tuple(batch.tgt_in.shape)) for batch in every],
        "order": [batch.pair_ids.tolist() for batch in every],
        "said": said,
        "ahead": ahead,
        "threads": threads,
        "pinned": len(pinned),
        "cache": sorted(str(path.parent) for path in Path().rglob("meta.json")),
    }


def training(config: Config) -> Seen:
    """A whole run: the record, the files, the weights, and what it says."""
    said = io.StringIO()
    progress = Progress(Console(file=said, width=500))
    folder = begin(config, Path("run"), progress=progress, beam_size=1 if config.data.test_data_path else None)
    begin_writing, beside = Background.begin, list[str]()

    def noted(background: Background, work: Callable[[], None]) -> None:
        beside.append("a save")
        begin_writing(background, work)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        patched.setattr(Background, "begin", noted)
        finish(folder, progress=progress)
    files = [str(path) for path in sorted(Path().rglob("*")) if path.is_file() and "cache" not in path.parts]
    metrics = next(path for path in map(Path, files) if path.name == "metrics.jsonl")
    return {
        "metrics": metrics.read_text(),
        "files": [re.sub(r"tfevents.*", "tfevents", name) for name in files],
        "weights": hashlib.sha256(Path("run/model/model.safetensors").read_bytes()).hexdigest(),
        "said": re.sub(r"\d+:\d\d", "TIME", said.getvalue()),
        "beside": beside,
        "evaluated": [path.read_text() for path in sorted(Path("run").glob("*.json")) if path.name == "report.json"],
    }


def or_error(observe: Observe) -> Observe:
    """What is seen, or what the error says that ends it."""

    def attempt(config: Config) -> Seen:
        try:
            return observe(config)
        except UserError as error:
            return {"said": str(error)}

    return attempt


def trainer(config: Config) -> Seen:
    """What making a trainer does to the model and to torch."""
    threads = torch.get_num_threads()
    made = OptimizedTransformer(src_vocab_size=12, tgt_vocab_size=12, **config.model.__dict__)
    compiled = create_trainer(model=made, train_dataloader=[], config=config).compile
    seen = {
        "threads": torch.get_num_threads(),
        "compiled": compiled,
        "device": str(choose_device(config.system.device)) if torch.cuda.is_available() else config.system.device,
    }
    torch.set_num_threads(threads)
    return seen


def processes(config: Config) -> Seen:
    """What of a model two processes would divide."""
    divided: list[str] = []
    two = types.SimpleNamespace(rank=0, size=2, is_first=True, tell=lambda value: value)
    made = OptimizedTransformer(src_vocab_size=12, tgt_vocab_size=12, **config.model.__dict__)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pytorch_dl.training.trainer.require_same_weights", lambda *_: None)
        patched.setattr("pytorch_dl.training.trainer.divide", lambda model, *_: divided.append(type(model).__name__))
        create_trainer(model=made, train_dataloader=[], config=config, peers=two)
    return {"divided": divided}


def trackers(config: Config) -> Seen:
    """What Weights & Biases would get."""
    projects: list[str] = []
    run = types.SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None, summary={})
    stub = types.SimpleNamespace(__spec__="found", init=lambda project, **_: projects.append(project) or run)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "wandb", stub)
        training(config)
    return {"projects": projects}


SUFFIXES = {"data.train_data_path": "text", "data.src_suffix": "en", "data.tgt_suffix": "de"}
COLUMNS = {"data.train_data_path": "columns.jsonl", "data.src_column": "en", "data.tgt_column": "de"}
TWO_FILES = {"data.train_data_path": "text.en", "data.train_tgt_path": "text.de"}
TESTED = {**TEXTS, "data.test_data_path": "text.en", "data.test_tgt_path": "text.de"}
CORPORA = {"data.train_data_path": "a.tsv", "data.corpora": [{"src": "text.en", "tgt": "text.de"}]}
ONE = {"data.train_data_path": "a.tsv"}


def one_corpus(src: str, **options: str) -> Settings:
    return {**ONE, "data.corpora": [{"src": src, **options}]}


WORDS = {"data.train_data_path": "a.tsv", "data.tokenizer_name": "bpe", "data.vocab_size": 270}
VALIDATED = {**TEXTS, "training.eval_every": 1}
STALE = {**VALIDATED, "training.eval_decode": 2, "training.early_stopping_metric": "exact_match"}
THREADS = {**ONE, "data.layout": "padded", "data.num_workers": 1, "data.max_tokens_per_batch": 60}
UNSTEADY = {**VALIDATED, "training.learning_rate": 1.0}
DIVIDED = {**TEXTS, "data.max_tokens_per_batch": "auto", "training.tokens_per_step": 100}
COSINE = {**TEXTS, "scheduler.name": "cosine"}

CHANGES: dict[str, Change] = {
    "model.d_model": Change({}, 32, model, "parameters"),
    "model.n_heads": Change({}, 4, model, "output"),
    "model.n_kv_heads": Change({}, 1, model, "parameters"),
    "model.num_encoder_layers": Change({}, 2, model, "parameters"),
    "model.num_decoder_layers": Change({}, 2, model, "parameters"),
    "model.d_ff": Change({}, 24, model, "parameters"),
    "model.dropout": Change({}, 0.5, model, "training output"),
    "model.attention_dropout": Change({"model.attention": "plain"}, 0.5, model, "training output"),
    "model.max_seq_len": Change({}, 50, model, "longest"),
    "model.activation": Change({}, "geglu", model, "output"),
    "model.norm_type": Change({}, "layernorm", model, "output"),
    "model.norm_first": Change({}, False, model, "output"),
    "model.positions": Change({}, "sinusoidal", model, "output"),
    "model.bias": Change({}, True, model, "parameters"),
    "model.tie_embeddings": Change({}, "decoder", model, "parameters"),
    "model.use_checkpointing": Change({}, True, model, "kept"),
    "model.activation_budget": Change({}, 0.5, model, "budget"),
    "model.pad_token_id": Change({}, 3, model, "output"),
    "model.attention": Change({}, "sdpa", model, "kernels"),
    "data.train_data_path": Change(ONE, "b.tsv", batches, "text"),
    "data.train_tgt_path": Change(TWO_FILES, "text.fr", batches, "targets"),
    "data.val_data_path": Change(TEXTS, "b.tsv", batches, "validation"),
    "data.val_tgt_path": Change(
        {**ONE, "data.val_data_path": "text.en", "data.val_tgt_path": "text.de"}, "text.fr", batches, "validation"
    ),
    "data.test_data_path": Change(TESTED, "text.fr", training, "evaluated"),
    "data.test_tgt_path": Change(TESTED, "text.fr", training, "evaluated"),
    "data.src_suffix": Change(SUFFIXES, "fr", batches, "text"),
    "data.tgt_suffix": Change(SUFFIXES, "fr", batches, "targets"),
    "data.src_column": Change(COLUMNS, "fr", batches, "text"),
    "data.tgt_column": Change(COLUMNS, "fr", batches, "targets"),
    "data.corpora": Change(ONE, [{"src": "b.tsv"}], batches, "text"),
    "data.corpora.src": Change(CORPORA, [{"src": "text.fr", "tgt": "text.de"}], batches, "text"),
    "data.corpora.tgt": Change(CORPORA, [{"src": "text.en", "tgt": "text.fr"}], batches, "targets"),
    "data.corpora.weight": Change(CORPORA, [{"src": "text.en", "tgt": "text.de", "weight": 2}], batches, "text"),
    "data.corpora.src_suffix": Change(one_corpus("text", src_suffix="en", tgt_suffix="de"),
                                      [{"src": "text", "src_suffix": "fr", "tgt_suffix": "de"}], batches, "text"),
    "data.corpora.tgt_suffix": Change(one_corpus("text", src_suffix="en", tgt_suffix="de"),
                                      [{"src": "text", "src_suffix": "en", "tgt_suffix": "fr"}], batches, "targets"),
    "data.corpora.src_column": Change(one_corpus("columns.jsonl", src_column="en", tgt_column="de"),
                                      [{"src": "columns.jsonl", "src_column": "fr", "tgt_column": "de"}], batches,
                                      "text"),
    "data.corpora.tgt_column": Change(one_corpus("columns.jsonl", src_column="en", tgt_column="de"),
                                      [{"src": "columns.jsonl", "src_column": "en", "tgt_column": "fr"}], batches,
                                      "targets"),
    "data.val_split": Change(ONE, 5, batches, "validation"),
    "data.on_blank": Change({"data.train_data_path": "blank.tsv"}, "drop", or_error(batches), "said"),
    "data.tokenizer_name": Change(WORDS, "unigram", batches, "tokens"),
    "data.vocab_size": Change(WORDS, 275, batches, "vocabulary"),
    "data.shared_vocabulary": Change({**ONE, "model.tie_embeddings": "none"}, False, batches, "shared"),
    "data.max_length": Change(ONE, 6, batches, "said"),
    "data.use_dynamic_batching": Change({**ONE, "data.max_tokens_per_batch": 100}, False, batches, "shapes"),
    "data.max_tokens_per_batch": Change(ONE, 50, batches, "shapes"),
    "data.layout": Change(ONE, "padded", batches, "shapes"),
    "data.num_workers": Change(THREADS, 2, batches, "threads"),
    "data.prefetch_factor": Change(THREADS, 2, batches, "ahead"),
    "data.pin_memory": Change(ONE, False, batches, "pinned"),
    "data.cache_dir": Change(ONE, "elsewhere", batches, "cache"),
    "training.batch_size": Change({**ONE, "data.use_dynamic_batching": False}, 7, batches, "shapes"),
    "training.learning_rate": Change(TEXTS, 0.1, training, "weights"),
    "training.num_epochs": Change({**TEXTS, "training.max_steps": None}, 2, training, "metrics"),
    "training.max_steps": Change(TEXTS, 4, training, "metrics"),
    "training.time_limit": Change(TEXTS, 1e-3, training, "metrics"),
    "training.mixed_precision": Change(TEXTS, "bf16", training, "weights"),
    "training.gradient_accumulation_steps": Change(TEXTS, 2, training, "metrics"),
    "training.tokens_per_step": Change(DIVIDED, 150, training, "metrics"),
    "training.max_grad_norm": Change(TEXTS, 1e-9, training, "weights"),
    "training.undo_loss_spikes": Change(UNSTEADY, 1.0001, or_error(training), "said"),
    "training.label_smoothing": Change(TEXTS, 0.3, training, "metrics"),
    "training.ema_decay": Change(TEXTS, 0.5, training, "weights"),
    "training.average_checkpoints": Change(VALIDATED, 2, training, "said"),
    "training.eval_every": Change(TEXTS, 2, training, "metrics"),
    "training.eval_decode": Change(TEXTS, 2, training, "metrics"),
    "training.save_every": Change(TEXTS, 5, training, "files"),
    "training.save_in_background": Change(TEXTS, True, training, "beside"),
    "training.keep_checkpoints": Change(VALIDATED, 3, training, "files"),
    "training.early_stopping_patience": Change(STALE, 1, training, "metrics"),
    "training.early_stopping_metric": Change({**STALE, "training.early_stopping_metric": "val_loss"}, "exact_match",
                                             training, "metrics"),
    "training.early_stopping_min_delta": Change(VALIDATED, 100, training, "metrics"),
    "optimizer.name": Change(TEXTS, "sgd", training, "weights"),
    "optimizer.beta1": Change(TEXTS, 0.5, training, "weights"),
    "optimizer.beta2": Change(TEXTS, 0.5, training, "weights"),
    "optimizer.eps": Change(TEXTS, 0.1, training, "weights"),
    "optimizer.weight_decay": Change(TEXTS, 0.5, training, "weights"),
    "scheduler.name": Change(TEXTS, "constant", training, "metrics"),
    "scheduler.warmup": Change(TEXTS, 4, training, "metrics"),
    "scheduler.decay": Change({**TEXTS, "scheduler.name": "wsd", "scheduler.warmup": 0}, 0.9, training, "metrics"),
    "scheduler.final_factor": Change(COSINE, 0.5, training, "metrics"),
    "system.seed": Change(TEXTS, 2, training, "weights"),
    "system.device": Change({**TEXTS, "system.device": "cpu"}, "cuda", or_error(training), "said"),
    "system.num_threads": Change({"system.num_threads": 1}, 2, trainer, "threads"),
    "system.compile": Change({}, False, trainer, "compiled"),
    "system.shard": Change({"training.gradient_accumulation_steps": 2}, True, processes, "divided"),
    "logging.log_every": Change(TEXTS, 2, training, "metrics"),
    "logging.log_dir": Change(TEXTS, "logs", training, "files"),
    "logging.tensorboard": Change(TEXTS, True, training, "files"),
    "logging.wandb": Change(TEXTS, True, trackers, "projects"),
    "logging.wandb_project": Change({**TEXTS, "logging.wandb": True}, "other", trackers, "projects"),
}  # fmt: skip


def leaves(section: type[Section], prefix: str = "") -> set[str]:
    found = set()
    for name, field in section.model_fields.items():
        inner = [part for part in (field.annotation, *getattr(field.annotation, "__args__", ())) if is_section(part)]
        if not (inner and is_section(field.annotation)):
            found.add(f"{prefix}{name}")
        for part in inner:
            found |= leaves(part, f"{prefix}{name}.")
    return found


def is_section(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, Section)


def write_texts(folder: Path) -> Path:
    """What the settings name."""
    lines = (f"{src[: 2 + n % 7]}\t{tgt[: 2 + n % 5]}\n" for n, (src, tgt) in enumerate(pairs(30)))
    (folder / "a.tsv").write_text("".join(lines))
    write_tsv(folder / "b.tsv", 20, first=100)
    write_tsv(folder / "val.tsv", 4, first=60)
    (folder / "blank.tsv").write_text("ab\tcd\n\tef\ngh\tij\n")
    english, german = zip(*pairs(12, first=200), strict=True)
    french = [src for src, _ in pairs(12, first=300)]
    for name, side in (("en", english), ("de", german), ("fr", french)):
        (folder / f"text.{name}").write_text("".join(f"{line}\n" for line in side))
    rows = zip(english, german, french, strict=True)
    lines = (f'{{"en": "{en}", "de": "{de}", "fr": "{fr}"}}\n' for en, de, fr in rows)
    (folder / "columns.jsonl").write_text("".join(lines))
    return folder


def look(observe: Observe, settings: Settings, texts: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What is seen with these settings, in a fresh folder that holds the texts."""
    folder.mkdir()
    for text in texts.iterdir():
        (folder / text.name).symlink_to(text)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    return observe(checked(with_values(with_overrides(Config(), TINY), settings)))
