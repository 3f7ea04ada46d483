"""The training loop, in three altitudes: `train` sequences, `train_step` does one step, small functions compute.

Batches come in, checkpoints and metrics come out. The trainer receives built objects; `create_trainer` builds them from
a config. Order, dropout and schedule are functions of the `TrainState`, so resuming is loading it.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pytorch_dl.config.model_config import Config, LoggingConfig, OptimizerConfig, TrainingConfig
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ConfigError, NonFiniteError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.accumulation import Group, groups, steps_per_epoch
from pytorch_dl.training.agreement import require_a_batch_for_each, require_same, require_same_weights
from pytorch_dl.training.best_weights import BestWeights
from pytorch_dl.training.checkpointer import Checkpointer
from pytorch_dl.training.compilation import Compile, compiles_together
from pytorch_dl.training.diagnosis import Failure, diagnosed, explained
from pytorch_dl.training.due import save_is_due, validation_is_due
from pytorch_dl.training.ending import end_reason, seconds_left
from pytorch_dl.training.loaders import is_exact
from pytorch_dl.training.objective import check_vocabulary
from pytorch_dl.training.oddities import oddities
from pytorch_dl.training.optimizer import make_optimizer
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.precision import Precision, choose_precision
from pytorch_dl.training.preflight import try_largest
from pytorch_dl.training.progress import Progress, Sample, duration
from pytorch_dl.training.recorded_passes import RecordedPasses, can_record
from pytorch_dl.training.reporter import Reporter
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.schedule import learning_rate_factor
from pytorch_dl.training.sharding import divide, is_divided
from pytorch_dl.training.signals import StopNow, StopRequest
from pytorch_dl.training.spikes import LossSpike, SpikeWatch
from pytorch_dl.training.step import Passes, Reading, begin_step
from pytorch_dl.training.step_parts import DATA, Watch, part, unwatched
from pytorch_dl.training.tracking import Tracker
from pytorch_dl.training.train_state import Sums, TrainState
from pytorch_dl.training.update import Schedule, WeightUpdate
from pytorch_dl.training.validation import Decode, validate


class OptimizedTrainer:
    """Trains a model on batches, validates it, and keeps checkpoints from which it resumes.

    With the loaders of a `DataModule` a resumed training ends with the same bits as one that was never stopped; so it
    does with any other iterable that gives the same batches each time it is gone through.

    In several processes that torchrun started, each takes some of a step's batches: `gradient_accumulation_steps` tells
    how many there are, on all together. The result has the bits of one process's. `peers` are those of torch's process
    group, where there is one. With `shard` they divide weights, gradients and optimizer state among them; the bits are
    then not quite the same.

    `compile` None does not compile, or goes on as the checkpoint says that training was begun.

    `schedule` maps (step, total steps) to a factor of the optimizer's learning rate; None leaves it as it is. `decode`
    translates at each validation; trackers, your own `trackers` among them, are told the `hyperparameters`. Without
    `checkpoint_dir` nothing is saved, without `log_dir` nothing is written down.
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
        compile: Compile | None = None,
        decode: Decode | None = None,
        progress: Progress | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        peers: Peers | None = None,
        shard: bool = False,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        given = {"mixed_precision": mixed_precision, "gradient_accumulation_steps": gradient_accumulation_steps}
        given = {name: value for name, value in given.items() if value is not None}
        self.settings = TrainingConfig.model_validate({**(training or TrainingConfig()).model_dump(), **given})
        self.model, self.train_dataloader, self.val_dataloader = model, train_dataloader, val_dataloader
        self.seed, self.compile, self.decode = seed, compile, decode
        self.peers = peers or Peers.present(next(model.parameters()).device)
        self._require_scores()
        require_a_batch_for_each(self.peers, self.settings)
        optimizer = optimizer or make_optimizer(model, OptimizerConfig(), learning_rate=self.settings.learning_rate)
        if shard and self.peers.size > 1:
            require_same_weights(self.peers, model)
            divide(model, optimizer, self.peers)
        self.device = next(model.parameters()).device
        precision: Precision = self.peers.tell(choose_precision(self.settings.mixed_precision, self.device))
        self.state = TrainState(precision=precision)
        self.update = WeightUpdate(
            model,
            optimizer,
            settings=self.settings,
            schedule=schedule,
            precision=self.state.precision,
        )
        self.checkpoints = Checkpointer(
            Path(checkpoint_dir) if checkpoint_dir else None, model, self.update, self.settings, self.peers
        )
        self.reporter = Reporter(
            Path(log_dir) if log_dir and self.peers.is_first else None,
            logging or LoggingConfig(),
            progress or Progress(),
            settings=hyperparameters or {"training": self.settings.model_dump()},
            trackers=trackers if self.peers.is_first else (),
        )
        self.best = BestWeights(self.checkpoints)
        self._spikes = SpikeWatch(self.settings.undo_loss_spikes)
        self._stop = StopRequest()
        self._passes = self._new_passes()
        self._unread: deque[Reading] = deque()
        self._seconds = 0.0
        self.watch: Watch = unwatched  # of each step

    @property
    def checkpoint_dir(self) -> Path | None:
        """Where checkpoints are saved, if they are."""
        return self.checkpoints.folder

    def train(self, num_epochs: int | None = None, *, stop_after: int | None = None) -> TrainState:
        """Train to the end of the epochs, steps or time, and leave the model with the best weights that it found.

        After the step `stop_after` it stops as by a signal: saved, with Interrupted.
        """
        epochs = self.settings.num_epochs if num_epochs is None else num_epochs
        size = self.settings.gradient_accumulation_steps
        total_steps = self.settings.max_steps or epochs * steps_per_epoch(self.train_dataloader, size=size)
        if self.checkpoint_dir and self.state.step == 0:
            ckpt.refuse_existing(self.checkpoint_dir)
        self.best.take_back(self.resume)
        self._unread.clear()
        self._passes, self._seconds = self._new_passes(), self.peers.tell(self.state.seconds)
        self.update.forget_failure()
        require_same(
            self.peers,
            self.model,
            self.train_dataloader,
            settings={**self.settings.model_dump(), "seed": self.seed},
            step=self.state.step,
        )
        self.model.train()
        self.state.compiled = compiles_together(
            self.compile,
            self.model,
            self.train_dataloader,
            self.state,
            steps=total_steps * size,
            time_limit=self.settings.time_limit,
            peers=self.peers,
            say=self.reporter.say,
        )
        self._record_passes_of_one_shape()
        with self.reporter.open(self.state), self._stop, self.checkpoints.beside_training(self.reporter.say):
            try:
                for oddity in oddities(self.update, total_steps=total_steps) if not self.state.step else ():
                    self.reporter.say(f"warning: {oddity}")
                self._validate_and_save_if_due()
                reason = self._step_by_step(total_steps, epochs=epochs, stop_after=stop_after)
                self._finish(f"{reason}, at step {self.state.step:,} of {total_steps:,}")
                self._stop.asked_by_another |= self._is_any_stopped()
                self._poll()  # a signal that came while the last step was saved
            except StopNow:
                if self.checkpoints.saved_step < self.state.step:
                    self.save()
                self.checkpoints.wait_together()  # torchrun ends all when one has ended
                raise self._stop.as_error(self.state.step, folder=self.checkpoint_dir) from None
        return self.state

    def train_step(self, batches: Sequence[Batch], *, total_steps: int) -> Sums:
        """One optimizer step on the summed loss of the batches, divided by all their target tokens.

        In several processes, all are given the same batches, and each computes some.
        """
        reading = self.begin_step(batches, total_steps=total_steps)
        with self._explaining(reading.batches, reading.step):
            return reading.read()

    def begin_step(self, batches: Sequence[Batch] | Group, *, total_steps: int) -> Reading:
        """The same, without waiting for the device; a group holds this process's batches only."""
        group = batches if isinstance(batches, Group) else Group.share_of(batches, self.peers)
        self.state.step += 1
        with self._explaining(group.batches, self.state.step):
            return begin_step(
                self._passes,
                group.batches,
                size=group.size,
                step=self.state.step,
                total_steps=total_steps,
                peers=self.peers,
                stops=self._stop.signal is not None,
                seconds=self.state.seconds,
            )

    def diagnose(self, batches: Mapping[int, Batch], *, step: int) -> Failure | None:
        """Compute a step's batches again, and tell the first tensor that is not finite; None where all are."""
        return diagnosed(self._passes, batches, step=step)

    def record_passes(self) -> None:
        """On a GPU, replay the passes of the next step in all that follow, whose batches must have the same shape."""
        if can_record(self.model, self.state.precision):
            self._passes.recorded = RecordedPasses(
                self.model, precision=self.state.precision, label_smoothing=self.settings.label_smoothing
            )

    @property
    def replays_passes(self) -> bool:
        """Whether the next step's passes are replayed, or recorded."""
        return self._passes.recorded is not None

    def validate(self) -> tuple[dict[str, float], Sequence[Sample]]:
        """What `validation.validate` finds; while training, of the moving average of the weights where there is one."""
        average = None if self.best.are_in_use else self.update.average
        with average.in_use(self.model) if average else nullcontext():
            return validate(
                self.model,
                self.val_dataloader,
                self.decode,
                step=self.state.step,
                precision=self.state.precision,
                poll=self._stop.poll if self.peers.size == 1 else lambda: None,  # others would wait for who leaves
                peers=self.peers,
            )

    def resume(self) -> bool:
        """Go on from the newest whole checkpoint; False when there is none."""
        if not self.checkpoint_dir:
            raise ConfigError("there is nothing to resume from without a checkpoint_dir")
        state = self.checkpoints.restore(self.reporter.say)
        if state is None:
            return False
        self._go_on_from(state)
        return True

    def _go_on_from(self, state: TrainState) -> None:
        self.state, self.best.are_in_use = state, False
        self._passes = self._new_passes()  # in the precision of the checkpoint
        if state.batch and not is_exact(self.train_dataloader):
            self.reporter.say(
                f"warning: the training loader begins epoch {state.epoch + 1} anew, without its first "
                f"{state.batch:,} batches: if it shuffles, some pairs come twice and others not at all"
            )

    def save(self) -> None:
        """Write a checkpoint of this step, where there is a folder for it; not once the model has its best weights."""
        if self.best.are_in_use:
            return  # the last weights are saved already
        self._read()
        self.reporter.note_position(self.state)
        self.checkpoints.save(self.state)

    def _step_by_step(self, total_steps: int, *, epochs: int, stop_after: int | None) -> str:
        """Take steps until training ends; returns why."""
        steps, first = self._groups(), self.state.step + 1
        while not (reason := end_reason(self._agreed_state, self.settings, epochs)):
            self._poll()
            if self.state.step == stop_after:
                raise StopNow
            started = time.monotonic()
            try:
                with self.watch(self.state.step + 1):
                    with part(DATA):
                        group = next(steps)
                    self._advance(group, total_steps, started=started)
            except LossSpike as spike:
                self._go_back(spike, group)
                steps = self._groups()
                continue
            if self.state.step == first:
                try_largest(self._passes, self.train_dataloader, self.state, self.peers)
            self._validate_and_save_if_due()
        return reason

    def _groups(self) -> Iterator[Group]:
        size = self.settings.gradient_accumulation_steps
        return groups(self.train_dataloader, self.state, size=size, model=self.model, peers=self.peers)

    def _record_passes_of_one_shape(self) -> None:
        if self.state.compiled and getattr(self.train_dataloader, "has_one_shape", False):
            self.record_passes()

    def _go_back(self, spike: LossSpike, group: Group) -> None:
        """Return to the last checkpoint that was due, and leave out the batches since: up to the group's end."""
        seconds, returns = self.state.seconds, self.state.returns
        epoch, batch = (self.state.epoch + 1, 0) if group.ends_epoch else (self.state.epoch, self.state.batch)
        self._unread.clear()
        self._go_on_from(self.checkpoints.go_back(self.reporter.say))
        self._record_passes_of_one_shape()
        self.state.epoch, self.state.batch = epoch, batch
        self.state.seconds, self.state.returns = seconds, returns
        self._spikes.note_return(self.state)
        self.reporter.go_back(self.state)
        self.reporter.say(
            f"{spike}: back to step {self.state.step:,}, and on with batch {batch:,} of epoch {epoch + 1:,}"
        )

    def _advance(self, group: Group, total_steps: int, *, started: float) -> None:
        self._unread.append(self.begin_step(group, total_steps=total_steps))
        state = self.state
        state.batch += group.size
        saves = (self.settings.save_every, self.settings.eval_every)
        due = group.ends_epoch or self.reporter.is_due(state) or any(n and state.step % n == 0 for n in saves)
        # A spike must be known before the next step is begun, whose batches are not to be left out.
        at_once = due or not self.update.reads_late or self.settings.undo_loss_spikes
        sums = self._read(late=0 if at_once else 1)
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
            reading = self._unread.popleft()
            with self._explaining(reading.batches, reading.step):
                found, counts = reading.read(), reading.all_counts
            if self.checkpoints.return_step:
                self._spikes.look(self.state, found, step=reading.step)
            self._stop.asked_by_another |= counts.stops > 0
            self._seconds = counts.seconds
            for noted in (sums, self.state.since_log, self.state.this_epoch):
                noted.add(found)
        return sums

    @contextmanager
    def _explaining(self, batches: Mapping[int, Batch], step: int) -> Iterator[None]:
        """Tell of numbers that are not finite where they come from."""
        try:
            yield
        except NonFiniteError as error:
            self.checkpoints.settle()  # a save would delete what is half written beside it
            raise explained(
                error, self._passes, batches, step=step, peers=self.peers, folder=self.checkpoint_dir
            ) from None

    def _validate_and_save_if_due(self) -> None:
        state = self.state
        self._poll()
        if validation_is_due(state, self.settings) and state.validated_step < state.step:
            self._validate_and_note()
            self.save()
        elif save_is_due(state, self.settings) and self.checkpoints.saved_step < state.step:
            self.save()

    def _validate_and_note(self) -> None:
        state, metric = self.state, self.settings.early_stopping_metric
        if self.val_dataloader is None:
            state.validated_step = state.best_step = state.step
            return
        self._read()
        started = time.monotonic()
        try:
            values, samples = self.validate()
        except NonFiniteError:
            if not is_divided(self.model):
                self.update.check_weights(state.step)  # which tells more, where it is they
            raise
        state.seconds += time.monotonic() - started
        best = state.note_validation(values[metric], self.settings)
        self.reporter.validation(state, values, samples, best=best)

    def _finish(self, reason: str) -> None:
        """Validate and save the last step, and use the best weights."""
        self._passes.recorded = None  # and its memory
        self.reporter.say(f"training ended: {reason}")
        if not self.state.step:
            return
        if self.state.validated_step < self.state.step:
            self._validate_and_note()
            self.save()
        elif self.checkpoints.saved_step < self.state.step:
            self.save()
        metric = self.settings.early_stopping_metric
        validate = (lambda: self.validate()[0][metric]) if self.val_dataloader is not None else None
        self.best.use(self.state, validate=validate, say=self.reporter.say)

    def _poll(self) -> None:
        """Stop when a save has failed, or by a signal: several processes all after the same step, which told them."""
        self.checkpoints.look()
        if self.peers.size == 1 or self._stop.asked_by_another:
            self._stop.poll()

    def _is_any_stopped(self) -> bool:
        """Whether a signal has come to any process since the last step."""
        mine = torch.tensor([self._stop.signal is not None], dtype=torch.long, device=self.device)
        return self.peers.size > 1 and bool(self.peers.add_up(mine).item())

    @property
    def _agreed_state(self) -> TrainState:
        """With the seconds of training that all processes know of: by the clock of the first, at the last step."""
        return self.state if self.peers.size == 1 else replace(self.state, seconds=self._seconds)

    def _new_passes(self) -> Passes:
        return Passes(
            self.model,
            self.update,
            seed=self.seed,
            precision=self.state.precision,
            label_smoothing=self.settings.label_smoothing,
        )

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
    run_dir: str | Path | None = ".",
    decode: Decode | None = None,
    progress: Progress | None = None,
    peers: Peers | None = None,
    trackers: Sequence[Tracker] = (),
) -> OptimizedTrainer:
    """Build optimizer, schedule and trainer from a config; checkpoints and metrics go into `run_dir`, None: nowhere."""
    wanted = getattr(train_dataloader, "vocab_sizes", None)
    if wanted and (problem := check_vocabulary(model, src=wanted[0], tgt=wanted[1])):
        raise ConfigError(problem, fix="make the model with the sizes in data_module.vocab_sizes")
    if config.system.num_threads:
        torch.set_num_threads(config.system.num_threads)
    return OptimizedTrainer(
        model,
        train_dataloader,
        val_dataloader,
        make_optimizer(model, config.optimizer, learning_rate=config.training.learning_rate),
        log_dir=config.logging.log_dir or run_dir,
        checkpoint_dir=None if run_dir is None else RunFolder(Path(run_dir)).checkpoints,
        training=config.training,
        logging=config.logging,
        schedule=partial(learning_rate_factor, config.scheduler),
        seed=config.system.seed,
        compile=config.system.compile,
        decode=decode,
        progress=progress,
        hyperparameters=config.model_dump(),
        peers=peers,
        shard=config.system.shard,
        trackers=trackers,
    )
