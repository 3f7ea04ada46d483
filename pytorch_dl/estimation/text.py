"""The text of a training, prepared to be counted: all of it, or of a long one every n-th pair."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pytorch_dl.config import Config
from pytorch_dl.dataset.efficient_dataloader import DataModule, Texts, texts_of
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.text_files import PairStream, TextPair
from pytorch_dl.prepare import new_tokenizers

MOST_PAIRS = 200_000  # that are prepared without a cache for them
Say = Callable[[str], None]


@dataclass(frozen=True)
class EveryNth:
    """A PairStream: each n-th pair of another."""

    stream: PairStream
    n: int

    @property
    def name(self) -> str:
        """Of the other."""
        return self.stream.name

    @property
    def weight(self) -> float:
        """Of the other."""
        return self.stream.weight

    @property
    def dropped(self) -> int:
        """Of the whole other."""
        return self.stream.dropped

    def __iter__(self) -> Iterator[TextPair]:
        return islice(self.stream, 0, None, self.n)

    def fingerprint(self) -> str:
        """Hex SHA-256 over that of the other and n."""
        return hashlib.sha256(json.dumps([self.stream.fingerprint(), self.n]).encode()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """Text that is ready to be trained on."""

    data: DataModule
    loader: BatchLoader
    one_of: int  # so many pairs is prepared; 1: all are
    seconds: float  # that it took: of the whole text that many times as long


def prepared(config: Config, folder: Path, say: Say) -> Prepared:
    """Prepare the text: in data.cache_dir, where a run finds it again, otherwise in `folder`."""
    texts = texts_of(config.data, seed=config.system.seed)
    one_of = 1 if config.data.cache_dir else _one_of(texts)
    if one_of > 1:
        say(f"the text is long: its figures are from one pair of {one_of}")
        texts = Texts([EveryNth(stream, one_of) for stream in texts.train], texts.val)
    started = time.perf_counter()
    data = DataModule(
        data=config.data,
        batch_size=config.training.batch_size,
        seed=config.system.seed,
        tokenizers=new_tokenizers(config, texts, say),
        texts=texts,
        cache_dir=config.data.cache_dir or folder / "cache",
        report=say,
    )
    data.setup()
    return Prepared(data, data.train_dataloader(), one_of, time.perf_counter() - started)


def _one_of(texts: Texts) -> int:
    pairs = sum(1 for stream in texts.train for _ in stream)
    return math.ceil(pairs / MOST_PAIRS)


@dataclass(frozen=True)
class TextFigures:
    """What an epoch and a training go through; of source and target with the mark that is added to each."""

    one_of: int
    """The figures are from one pair of so many; 1: from all."""
    layout: str
    """How pairs become batches: packed, bucketed or random."""
    pairs: int
    """Of an epoch."""
    left_out: int
    """Pairs that are too long."""
    src_tokens: int
    """Of an epoch."""
    tgt_tokens: int
    """Of an epoch."""
    efficiency: float
    """Real tokens / all positions, both sides."""
    steps_per_epoch: int
    """Optimizer steps."""
    epochs: float
    """Of the training."""
    steps: int
    """Of the training, where no limit of time and no early stopping ends it before."""
    tokens: int
    """Of the training, both sides."""

    @property
    def epoch_tokens(self) -> int:
        """Of an epoch, both sides."""
        return self.src_tokens + self.tgt_tokens


def text_figures(config: Config, text: Prepared) -> TextFigures:
    """Count the first epoch; later ones differ by a few batches."""
    training, planner, plan = config.training, text.loader.planner, text.loader.plan(0)
    lengths = planner.lengths.take(plan.pairs)
    src, tgt, scale = int(lengths.src.sum()), int(lengths.tgt.sum()), text.one_of
    per_epoch = math.ceil(len(plan) * scale / training.gradient_accumulation_steps)
    steps = training.max_steps or training.num_epochs * per_epoch
    epochs = steps / per_epoch
    return TextFigures(
        one_of=scale,
        layout="packed" if planner.packed else "random" if planner.batch_size else "bucketed",
        pairs=len(plan.pairs) * scale,
        left_out=(len(planner.lengths.src) - len(planner.kept)) * scale,
        src_tokens=src * scale,
        tgt_tokens=tgt * scale,
        efficiency=plan.efficiency,
        steps_per_epoch=per_epoch,
        epochs=epochs,
        steps=steps,
        tokens=round(epochs * (src + tgt) * scale),
    )


def step_positions(loader: BatchLoader, *, size: int) -> Iterator[int]:
    """Positions of both sides, padding included, of each optimizer step of `size` batches, without end."""
    epoch = 0
    while True:
        plan = loader.plan(epoch)
        if plan.widths and plan.rows_per_batch:
            each: Any = [plan.rows_per_batch * sum(plan.widths)] * len(plan)
        else:
            rows, src, tgt = loader.planner.shapes(plan)
            each = (rows * (src + tgt)).tolist()
        yield from (sum(each[start : start + size]) for start in range(0, len(each), size))
        epoch += 1
