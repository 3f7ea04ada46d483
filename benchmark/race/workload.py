"""What both sides are measured on: one text, one vocabulary, as many pairs a step; and the configuration of it all."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmark.contenders.baseline import Baseline
from benchmark.contenders.hf_trainer import HuggingFaceTrainer
from benchmark.contenders.ours import OursOnText
from benchmark.contenders.peers import PEERS
from benchmark.contenders.side import Side
from pytorch_dl.building import choose_device
from pytorch_dl.config import Config
from pytorch_dl.config.load import checked, with_overrides, with_values
from pytorch_dl.data import dates_file
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.efficient_dataloader import DataModule
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.planning import Planner
from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import ConfigError, DataError
from pytorch_dl.models.compilers import missing_for_compilation

DATES = "the bundled corpus of dates (no other text was found or given)"
OURS = {  # what is set for each of this project's sides
    "ours": {},
    "ours-budget": {"model.activation_budget": 0.0},
    "ours-checkpointed": {"model.use_checkpointing": True},
}
ROUNDS = 4  # of fitting the batch size: pairs in a batch grow nearly in proportion to its tokens


@dataclass(frozen=True)
class Workload:
    """Loaders of the same text for all sides, with about as many pairs in a batch."""

    config: Config
    tokenizers: TokenizerPair
    pairs_per_step: int
    plain: BatchLoader  # random pairs, padded
    bucketed: BatchLoader  # pairs of like lengths, padded
    loader: BatchLoader  # as the configuration says
    folder: Path  # of the tokenizer, the token store and what else is temporary

    def side(self, name: str) -> Side | HuggingFaceTrainer:
        """A new model and loop: baseline, one of ours, hf-trainer, or one of the peers."""
        if name in OURS:
            config, run = with_values(self.config, OURS[name]), str(self.folder / "run")
            return OursOnText(config, self.tokenizers, self.loader, run_dir=run)
        special = self.tokenizers.tgt
        common = {"vocab_size": special.vocab_size, "pad_id": special.pad_id}
        device = choose_device(self.config.system.device)
        if name == "baseline":
            return Baseline(self.config, **common, bos_id=special.bos_id, device=device)
        if name == HuggingFaceTrainer.name:
            run, pairs = str(self.folder / "hf"), self.pairs_per_step
            return HuggingFaceTrainer(self.config, **common, loader=self.plain, pairs_per_step=pairs, folder=run)
        return PEERS[name](self.config, **common, device=device)

    def loader_of(self, name: str) -> BatchLoader:
        """The batches that this side is best trained on."""
        return {"baseline": self.plain, **dict.fromkeys(OURS, self.loader)}.get(name, self.bucketed)


def find_text(folder: Path | None) -> Path | None:
    """The folder of the text: the one given, else multi30k in $PYTORCH_DL_DATA; None: the bundled dates."""
    if folder is None and (root := os.environ.get("PYTORCH_DL_DATA")):
        folder = Path(root) / "multi30k"
        if not folder.is_dir():
            return None
    if folder is not None and not any(folder.glob("train.*")):
        raise DataError("holds no train.*", where=str(folder), fix="give a folder with train.en and train.de")
    return folder


def text_settings(folder: Path | None, *, src_suffix: str, tgt_suffix: str) -> dict[str, Any]:
    """Settings for the text of a folder, or for the bundled dates."""
    if folder is None:
        path = str(dates_file("train"))
        return {
            "data.train_data_path": path,
            "data.tokenizer_name": "char",
            "data.vocab_size": 512,
            "data.max_length": 64,
        }
    return {
        "data.train_data_path": str(folder.resolve() / "train"),
        "data.src_suffix": src_suffix,
        "data.tgt_suffix": tgt_suffix,
    }


def configuration(template: Config, text: dict[str, Any], overrides: list[str]) -> Config:
    """The template with the text's settings, the overrides, and those that a measurement needs."""
    config = with_overrides(with_values(template, text), overrides)
    fixed: dict[str, Any] = {"data.num_workers": 0, "logging.tensorboard": False}  # a thread would work for all sides
    if config.system.compile == "auto":
        fixed["system.compile"] = not missing_for_compilation(choose_device(config.system.device).type)
    return checked(with_values(config, fixed), where="command line")


def prepare(config: Config, folder: Path, *, pairs_per_step: int, tokenizers: TokenizerPair | None = None) -> Workload:
    """Read the text into `folder`, and choose the tokens of a batch such that it holds about `pairs_per_step` pairs."""
    if config.system.num_threads:
        torch.set_num_threads(config.system.num_threads)
    if not config.data.shared_vocabulary:
        raise ConfigError("the baseline has one vocabulary", fix="leave data.shared_vocabulary true")
    quiet = {"cache_dir": folder / "cache", "report": lambda _: None, "seed": config.system.seed}
    data = DataModule(data=config.data, tokenizers=tokenizers, **quiet)  # type: ignore[arg-type]
    data.setup()
    settings = {"use_dynamic_batching": False, "layout": "padded"}
    plain = DataModule(
        data=config.data.model_copy(update=settings),
        batch_size=pairs_per_step,
        tokenizers=data.tokenizers,
        **quiet,  # type: ignore[arg-type]
    )
    plain.setup()
    loader = data.train_dataloader()
    loader.planner = fitted(loader.planner, pairs_per_step)
    bucketed = data.train_dataloader()
    bucketed.planner = fitted(dataclasses.replace(bucketed.planner, packed=False, batch_size=None), pairs_per_step)
    config = with_values(config, {"data.max_tokens_per_batch": loader.planner.max_tokens})
    return Workload(config, data.tokenizers, pairs_per_step, plain.train_dataloader(), bucketed, loader, folder)


def fitted(planner: Planner, pairs_per_step: int) -> Planner:
    """The planner with the tokens of a batch changed such that its batches hold about so many pairs in the mean."""
    kept = planner.lengths.take(planner.kept)
    longest = int(max(kept.src.max(), kept.tgt.max()))
    mean = float(max(kept.src.mean(), kept.tgt.mean()))
    tokens, best = pairs_per_step * mean, planner
    closest = float("inf")
    for _ in range(ROUNDS):
        candidate = dataclasses.replace(planner, max_tokens=max(longest, round(tokens)))
        plan = candidate.plan(0)
        pairs = len(plan.pairs) / len(plan)
        if abs(pairs - pairs_per_step) < closest:
            closest, best = abs(pairs - pairs_per_step), candidate
        tokens *= pairs_per_step / pairs
    return best


def endless(loader: BatchLoader) -> Iterator[Batch]:
    """The batches of epoch after epoch."""
    for epoch in count():
        yield from loader.batches(epoch)
