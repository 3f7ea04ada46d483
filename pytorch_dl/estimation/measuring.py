"""The first steps of a training, taken to see how long they take and what memory they need; nothing is saved.

It is the training itself that runs, with its precision, its decision to compile and its batches, until the clock has
seen enough. Then some validation batches and translations are timed, and one step's live tensors are counted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from rich.console import Console

from pytorch_dl.building import build_model
from pytorch_dl.config import Config
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.errors import Interrupted
from pytorch_dl.estimation.text import Prepared, Say, TextFigures, step_positions
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.models.modes import evaluating
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.training.metrics import memory_mb
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.signals import StopNow
from pytorch_dl.training.step_memory import Memory, memory_of, watched_step
from pytorch_dl.training.trainer import OptimizedTrainer, create_trainer
from pytorch_dl.training.validation import validation_nll
from pytorch_dl.validating import decoder

WARMUP_STEPS, WARMUP_STEPS_OF_SHAPES = 3, 10  # where each shape is met for the first time, steps take longer for longer
LEAST_STEPS = 2  # that are timed, however long they take
VALIDATION_SHARE = 0.25  # of the seconds of training that are timed
FEW_PAIRS = 16  # to translate first
MOST_BATCHES = 1000  # of the validation text that are timed


@dataclass(frozen=True)
class Measured:
    """What was seen. Times are seconds."""

    device: str
    precision: str
    compiled: bool
    start: float
    """Before the first step and in the first ones, beyond what a step takes: compilation above all."""
    timed_steps: int
    step: float
    """A step in the mean."""
    tokens_per_second: float
    """Real tokens of both sides, in steps."""
    validation_loss: float
    """One validation, without translations."""
    validation_decoding: float
    """The translations of one validation, were they as long as the references."""
    memory: Memory


class Clock:
    """Looks at each step of a training, and ends it when steps were timed for so many seconds."""

    def __init__(self, *, warmup: int, seconds: float) -> None:
        self.warmup, self.seconds = warmup, seconds
        self.has_enough = False
        self.first_start = 0.0
        self.ends: list[float] = []

    @contextmanager
    def __call__(self, step: int) -> Iterator[None]:
        if self._is_enough():
            self.has_enough = True
            raise StopNow
        self.first_start = self.first_start or time.perf_counter()
        yield
        self.ends.append(time.perf_counter())
        if len(self.ends) < self.warmup and self.ends[-1] - self.first_start > self.seconds / 2:
            self.warmup = len(self.ends)  # steps are long

    def _is_enough(self) -> bool:
        timed = len(self.ends) - self.warmup
        return timed >= LEAST_STEPS and self.ends[-1] - self.ends[self.warmup - 1] >= self.seconds

    @property
    def timed(self) -> tuple[int, float]:
        """The steps before those that are timed, and the seconds of the latter; of a short training fewer."""
        first = min(self.warmup, len(self.ends) - 1)
        return first, self.ends[-1] - (self.ends[first - 1] if first else self.first_start)


def measured(config: Config, text: Prepared, figures: TextFigures, *, seconds: float, say: Say) -> Measured:
    """Train for some seconds after the warm-up, then look at validation and memory."""
    keep_freed_memory()
    began = time.perf_counter()
    trainer = trainer_of(config, text, figures)
    clock = Clock(warmup=WARMUP_STEPS if text.loader.has_one_shape else WARMUP_STEPS_OF_SHAPES, seconds=seconds)
    say(f"training for about {seconds:g} s to see how long a step takes, once the layers are compiled where that pays")
    _train(trainer, clock)
    first, taken = clock.timed
    size = config.training.gradient_accumulation_steps
    positions = list(islice(step_positions(text.loader, size=size), len(clock.ends)))
    rate = taken / sum(positions[first:])  # seconds of a position
    step = rate * (figures.epoch_tokens / figures.efficiency) / figures.steps_per_epoch
    start = clock.ends[first - 1] - began - rate * sum(positions[:first]) if first else clock.first_start - began
    loss, decoding = validation_seconds(trainer, config, text, budget=VALIDATION_SHARE * seconds)
    process = round(memory_mb()["peak_rss_mb"] * 2**20)
    say("counting what lives in a step")
    return Measured(
        device=trainer.device.type,
        precision=trainer.state.precision,
        compiled=trainer.state.compiled,
        start=max(0.0, start),
        timed_steps=len(positions) - first,
        step=step,
        tokens_per_second=figures.efficiency / rate,
        validation_loss=loss,
        validation_decoding=decoding,
        memory=replace(largest_memory(trainer, text.loader), process_peak=process),
    )


def trainer_of(config: Config, text: Prepared, figures: TextFigures) -> OptimizedTrainer:
    """The trainer of a run, as long as all of the text would have it, which saves and writes down nothing."""
    config = config.model_copy(deep=True)
    config.training.max_steps, config.logging.log_dir = figures.steps, None
    return create_trainer(
        model=build_model(config, text.data.tokenizers),
        train_dataloader=text.loader,
        config=config,
        run_dir=None,
        progress=Progress(Console(quiet=True)),
    )


def _train(trainer: OptimizedTrainer, clock: Clock) -> None:
    trainer.watch = clock
    try:
        trainer.train()
    except Interrupted:
        if not clock.has_enough:  # it was a signal
            raise


def validation_seconds(
    trainer: OptimizedTrainer, config: Config, text: Prepared, *, budget: float
) -> tuple[float, float]:
    """Seconds of one validation: of its loss and of its translations, measured on a part if that takes longer."""
    val = text.data.val_dataloader()
    if val is None:
        return 0.0, 0.0
    with evaluating(trainer.model):
        return _loss_seconds(trainer, val, budget), _decoding_seconds(trainer, config, text, budget)


def _loss_seconds(trainer: OptimizedTrainer, val: BatchLoader, budget: float) -> float:
    def seconds(batches: list[Batch]) -> float:
        started = time.perf_counter()
        validation_nll(trainer.model, batches, precision=trainer.state.precision, poll=lambda: None)
        return time.perf_counter() - started

    batches = list(islice(val.batches(0), MOST_BATCHES))
    seconds(batches[:1])  # sets up kernels
    one = seconds(batches[:1])
    some = batches[: max(1, int(budget / max(one, 1e-9)))]
    return seconds(some) / len(some) * len(val)


def _decoding_seconds(trainer: OptimizedTrainer, config: Config, text: Prepared, budget: float) -> float:
    store = text.data.val_store
    wanted = min(config.training.eval_decode, len(store) if store else 0)
    if not (store and wanted):
        return 0.0
    # A model that has learnt little does not end its translations; they are as long as the references later on.
    ratio = (1 + float(store.tgt_lengths.mean())) / (1 + float(store.src_lengths.mean()))
    settings = SearchSettings(beam_size=1, scored=False, max_length_ratio=ratio, max_length_offset=1)

    def seconds(pairs: int) -> float:
        training = config.training.model_copy(update={"eval_decode": pairs, "early_stopping_metric": "val_loss"})
        decode = decoder(text.data, training, settings)
        assert decode
        started = time.perf_counter()
        decode(trainer.model, lambda: None)
        return time.perf_counter() - started

    few = min(wanted, FEW_PAIRS)
    seconds(1)  # sets up kernels
    one = seconds(few)
    some = wanted if one * wanted / few <= budget else few
    return seconds(some) * wanted / some


def largest_memory(trainer: OptimizedTrainer, loader: BatchLoader) -> Memory:
    """Of live tensors in a step on the largest batches."""
    batches = [next(loader.batches(0))] if loader.has_one_shape else loader.largest(0)
    several = min(2, trainer.settings.gradient_accumulation_steps)
    peaks = []
    for batch in batches:
        with watched_step(trainer) as live:
            trainer.train_step([batch] * several, total_steps=trainer.state.step + 1)
        peaks.append(live.peak)
    return memory_of(trainer, peaks)
