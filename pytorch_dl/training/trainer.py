"""The training loop, in three altitudes: `train` sequences, `train_step` does one step, small functions compute.

Batches come in, checkpoints and metrics come out. The trainer receives built objects; `create_trainer` builds them from
a config. Order, dropout and schedule are functions of the `TrainState`, so resuming is loading it.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.config.model_config import Config, LoggingConfig, OptimizerConfig, TrainingConfig
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ConfigError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.accumulation import Group, groups, steps_per_epoch
from pytorch_dl.training.best_weights import use_average_if_better, use_best
from pytorch_dl.training.checkpointer import Checkpointer
from pytorch_dl.training.compilation import Compile, compiles
from pytorch_dl.training.ending import end_reason, seconds_left
from pytorch_dl.training.loaders import is_exact
from pytorch_dl.training.objective import check_vocabulary
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.precision import choose_precision
from pytorch_dl.training.progress import Progress, Sample, duration
from pytorch_dl.training.recorded_passes import RecordedPasses, can_record
from pytorch_dl.training.reporter import Reporter
from pytorch_dl.training.schedule import learning_rate_factor
from pytorch_dl.training.signals import StopNow, StopRequest
from pytorch_dl.training.step import Reading, begin_step
from pytorch_dl.training.train_state import Sums, TrainState
from pytorch_dl.training.update import Schedule, WeightUpdate
from pytorch_dl.training.validation import Decode, validate

FEW_STEPS = 200


class OptimizedTrainer:
    """Trains a model on batches, validates it, and keeps checkpoints from which it resumes.

    With the loaders of a `DataModule` a resumed training ends with the same bits as one that was never stopped; so it
    does with any other iterable that gives the same batches each time it is gone through.

    `schedule` maps (step, total steps) to a factor of the optimizer's learning rate; None leaves it as it is. `decode`
    translates at each validation; trackers are told the `hyperparameters`. Without `checkpoint_dir` nothing is saved,
    without `log_dir` nothing is written down.
    """

    def __init__(
        self,
        model: OptimizedTransformer,
        train_dataloader: object,
        val_dataloader: object | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        mixed_precision: bool | str | None = None,
        gradient_accumulation_steps: int | None = None,
        log_dir: str | Path | None = None,
        checkpoint_dir: str | Path | None = None,
        training: TrainingConfig | None = None,
        logging: LoggingConfig | None = None,
        schedule: Schedule | None = None,
        seed: int = 1,
        compile: Compile = False,
        decode: Decode | None = None,
        progress: Progress | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        given = {"mixed_precision": mixed_precision, "gradient_accumulation_steps": gradient_accumulation_steps}
        given = {name: value for name, value in given.items() if value is not None}
        self.settings = TrainingConfig.model_validate({**(training or TrainingConfig()).model_dump(), **given})
        self.model, self.train_dataloader, self.val_dataloader = model, train_dataloader, val_dataloader
        self.seed, self.compile, self.decode = seed, compile, decode
        self.device = next(model.parameters()).device
        self._require_scores()
        self.state = TrainState(precision=choose_precision(self.settings.mixed_precision, self.device))
        self.update = WeightUpdate(
            model,
            optimizer or make_optimizer(model, OptimizerConfig(), learning_rate=self.settings.learning_rate),
            settings=self.settings,
            schedule=schedule,
            precision=self.state.precision,
        )
        self.checkpoints = Checkpointer(
            Path(checkpoint_dir) if checkpoint_dir else None, model, self.update, self.settings
        )
        self.reporter = Reporter(
            Path(log_dir) if log_dir else None,
            logging or LoggingConfig(),
            progress or Progress(),
            settings=hyperparameters or {"training": self.settings.model_dump()},
        )
        self._stop = StopRequest()
        self._unread: deque[Reading] = deque()
        self._recorded: RecordedPasses | None = None
        self._has_best = False  # rather than the last weights
        self.has_average = False  # of the last checkpoints, in place of the best weights

    @property
    def checkpoint_dir(self) -> Path | None:
        """Where checkpoints are saved, if they are."""
        return self.checkpoints.folder

    def train(self, num_epochs: int | None = None) -> TrainState:
        """Train to the end of the epochs, steps or time, and leave the model with the best weights that it found."""
        epochs = self.settings.num_epochs if num_epochs is None else num_epochs
        size = self.settings.gradient_accumulation_steps
        total_steps = self.settings.max_steps or epochs * steps_per_epoch(self.train_dataloader, size=size)
        if self.checkpoint_dir and self.state.step == 0:
            ckpt.refuse_existing(self.checkpoint_dir)
        self._leave_best()
        self._unread.clear()
        self._recorded = None
        self.update.forget_failure()
        self.model.train()
        self.state.compiled = compiles(
            self.compile if not self.state.step else self.state.compiled,  # kept: other kernels give other bits
            self.model,
            self.train_dataloader,
            steps=total_steps * size,
            time_limit=self.settings.time_limit,
            precision=self.state.precision,
            say=self.reporter.say,
        )
        if self.state.compiled and getattr(self.train_dataloader, "has_one_shape", False):
            self.record_passes()
        with self.reporter.open(self.state), self._stop:
            try:
                if total_steps < FEW_STEPS and not self.state.step:
                    self.reporter.say(
                        f"warning: {total_steps:,} optimizer steps in all teach a model little; "
                        "raise training.num_epochs or training.max_steps, or lower data.max_tokens_per_batch"
                    )
                self._validate_and_save_if_due()
                steps = groups(self.train_dataloader, self.state, size=size, model=self.model)
                while not (reason := end_reason(self.state, self.settings, epochs)):
                    self._stop.poll()
                    started = time.monotonic()
                    self._advance(next(steps), total_steps, started=started)
                    self._validate_and_save_if_due()
                self._finish(f"{reason}, at step {self.state.step:,} of {total_steps:,}")
                self._stop.poll()  # a signal that came while the last step was saved
            except StopNow:
                if self.checkpoints.saved_step < self.state.step:
                    self.save()
                raise self._stop.as_error(self.state.step, folder=self.checkpoint_dir) from None
        return self.state

    def train_step(self, batches: Sequence[Batch], *, total_steps: int) -> Sums:
        """One optimizer step on the summed loss of the batches, divided by all their target tokens."""
        return self.begin_step(batches, total_steps=total_steps).read()

    def begin_step(self, batches: Sequence[Batch], *, total_steps: int) -> Reading:
        """The same, without waiting for the device."""
        self.state.step += 1
        return begin_step(
            self.model,
            self.update,
            batches,
            step=self.state.step,
            total_steps=total_steps,
            seed=self.seed,
            precision=self.state.precision,
            label_smoothing=self.settings.label_smoothing,
            recorded=self._recorded,
        )

    def record_passes(self) -> None:
        """On a GPU, replay the passes of the next step in all that follow, whose batches must have the same shape."""
        if can_record(self.model, self.state.precision):
            self._recorded = RecordedPasses(
                self.model, precision=self.state.precision, label_smoothing=self.settings.label_smoothing
            )

    def validate(self) -> tuple[dict[str, float], Sequence[Sample]]:
        """What `validation.validate` finds; while training, of the moving average of the weights where there is one."""
        average = None if self._has_best else self.update.average
        with average.in_use(self.model) if average else nullcontext():
            return validate(
                self.model,
                self.val_dataloader,
                self.decode,
                step=self.state.step,
                precision=self.state.precision,
                poll=self._stop.poll,
            )

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint; False when there is none."""
        if not self.checkpoint_dir:
            raise ConfigError("there is nothing to resume from without a checkpoint_dir")
        state = self.checkpoints.restore(self.reporter.say)
        if state is None:
            return False
        self.state, self._has_best = state, False
        if state.batch and not is_exact(self.train_dataloader):
            self.reporter.say(
                f"warning: the training loader begins epoch {state.epoch + 1} anew, without its first "
                f"{state.batch:,} batches: if it shuffles, some pairs come twice and others not at all"
            )
        return True

    def save(self) -> None:
        """Write a checkpoint of this step, where there is a folder for it; not once the model has its best weights."""
        if self._has_best:
            return  # the last weights are saved already
        self._read()
        self.state.metrics_position = self.reporter.position(self.state)
        self.checkpoints.save(self.state)

    def _advance(self, group: Group, total_steps: int, *, started: float) -> None:
        self._unread.append(self.begin_step(group.batches, total_steps=total_steps))
        state = self.state
        state.batch += len(group.batches)
        saves = (self.settings.save_every, self.settings.eval_every)
        due = group.ends_epoch or self.reporter.is_due(state) or any(n and state.step % n == 0 for n in saves)
        sums = self._read(late=0 if due or not self.update.reads_late else 1)
        state.seconds += time.monotonic() - started
        ending = f"{duration(seconds_left(state, self.settings, total_steps))} left"
        rate = self.update.learning_rate
        if sums.steps:
            self.reporter.step(state, sums, learning_rate=rate, total_steps=total_steps, ending=ending)
        if group.ends_epoch:
            whole, state.this_epoch = state.this_epoch, Sums()
            state.epoch, state.batch = state.epoch + 1, 0
            self.reporter.epoch(state, whole, total_steps=total_steps, ending=ending)

    def _read(self, *, late: int = 0) -> Sums:
        """Note the steps that were begun, but for so many of the latest."""
        sums = Sums()
        while len(self._unread) > late:
            found = self._unread.popleft().read()
            for noted in (sums, self.state.since_log, self.state.this_epoch):
                noted.add(found)
        return sums

    def _validate_and_save_if_due(self) -> None:
        state, settings = self.state, self.settings
        self._stop.poll()
        every = settings.eval_every
        due = state.step % every == 0 if every else state.batch == 0
        if due and state.validated_step < state.step:
            self._validate_and_note()
            self.save()
        elif settings.save_every and state.step % settings.save_every == 0 and self.checkpoints.saved_step < state.step:
            self.save()

    def _validate_and_note(self) -> None:
        state, metric = self.state, self.settings.early_stopping_metric
        if self.val_dataloader is None:
            state.validated_step = state.best_step = state.step
            return
        self._read()
        started = time.monotonic()
        values, samples = self.validate()
        state.seconds += time.monotonic() - started
        best = state.note_validation(
            values[metric], higher_is_better=metric != "val_loss", min_delta=self.settings.early_stopping_min_delta
        )
        self.reporter.validation(state, values, samples, best=best)

    def _finish(self, reason: str) -> None:
        """Validate and save the last step, and use the best weights."""
        self._recorded = None  # and its memory
        self.reporter.say(f"training ended: {reason}")
        if not self.state.step:
            return
        if self.state.validated_step < self.state.step:
            self._validate_and_note()
            self.save()
        elif self.checkpoints.saved_step < self.state.step:
            self.save()
        self._use_best()

    def _use_best(self) -> None:
        """Give the model the best weights; without checkpoints, the moving average."""
        self._has_best, self.has_average = True, False
        if not self.checkpoint_dir:
            if self.update.average:
                self.update.average.swap(self.model)
            return
        use_best(self.model, self.checkpoint_dir, self.state)
        if self.val_dataloader is not None:
            self.has_average = use_average_if_better(
                self.model,
                self.checkpoint_dir,
                self.state,
                self.settings,
                validate=lambda: self.validate()[0][self.settings.early_stopping_metric],
                say=self.reporter.say,
            )

    def _leave_best(self) -> None:
        """Undo `_use_best`: training goes on from the last weights."""
        if not self._has_best:
            return
        if self.checkpoint_dir:
            self.resume()
        elif self.update.average:
            self.update.average.swap(self.model)
        self._has_best = False

    def _require_scores(self) -> None:
        metric = self.settings.early_stopping_metric
        if metric != "val_loss" and self.val_dataloader is not None and self.decode is None:
            raise ConfigError(f"training.early_stopping_metric: {metric} needs translations", fix="give `decode`")


def create_trainer(
    *,
    model: OptimizedTransformer,
    train_dataloader: object,
    val_dataloader: object | None = None,
    config: Config,
    run_dir: str | Path = ".",
    decode: Decode | None = None,
    progress: Progress | None = None,
) -> OptimizedTrainer:
    """Build optimizer, schedule and trainer from a config; checkpoints and metrics go into `run_dir`."""
    wanted = getattr(train_dataloader, "vocab_sizes", None)
    if wanted and (problem := check_vocabulary(model, src=wanted[0], tgt=wanted[1])):
        raise ConfigError(problem, fix="make the model with the sizes in data_module.vocab_sizes")
    if config.system.num_threads:
        torch.set_num_threads(config.system.num_threads)
    run_dir = Path(run_dir)
    return OptimizedTrainer(
        model,
        train_dataloader,
        val_dataloader,
        make_optimizer(model, config.optimizer, learning_rate=config.training.learning_rate),
        log_dir=config.logging.log_dir or run_dir,
        checkpoint_dir=run_dir / "checkpoints",
        training=config.training,
        logging=config.logging,
        schedule=partial(learning_rate_factor, config.scheduler),
        seed=config.system.seed,
        compile=config.system.compile,
        decode=decode,
        progress=progress,
        hyperparameters=config.model_dump(),
    )
