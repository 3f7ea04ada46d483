"""The checkpoints of one training: when everything is saved, what is kept, and how it is found again."""

import copy
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.errors import CheckpointError
from pytorch_dl.files import damage, remove_leftovers
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import rotation
from pytorch_dl.training.background import Background, host_copies
from pytorch_dl.training.due import save_is_due
from pytorch_dl.training.peers import ALONE, Peers
from pytorch_dl.training.precision import Precision, choose_precision
from pytorch_dl.training.sharding import exchanging, is_divided
from pytorch_dl.training.train_state import TrainState
from pytorch_dl.training.update import WeightUpdate


class Checkpointer:
    """Saves model, optimizer and state into `folder`; without one it does nothing.

    `saved_step` is that of the last checkpoint that was begun, so that none is begun twice; where writing it failed, of
    the last one that is whole. `return_step` is that of the last one that was due, which a spike of the loss returns
    to; 0 where there is none, or spikes are not undone. One that a signal left does not count: the steps that a spike
    undoes would depend on it.
    """

    def __init__(
        self,
        folder: Path | None,
        model: OptimizedTransformer,
        update: WeightUpdate,
        settings: TrainingConfig,
        peers: Peers = ALONE,
    ) -> None:
        self.folder, self.model, self.update, self.settings = folder, model, update, settings
        self.peers = peers
        self.saved_step = self._written_step = self.return_step = 0
        self._background, self._is_beside = Background(), False

    def warn_if_scarce(self, report: Callable[[str], None]) -> None:
        """Say so where the disk has no room for those to be kept: the newest, the best, and one in writing."""
        if not self.folder:
            return
        weights = sum(tensor.nbytes for tensor in ckpt.model_weights(self.model).values())
        size = weights * (3 + bool(self.update.average))  # the optimizer keeps up to two numbers of each weight
        missing = self.settings.keep_checkpoints + 2 - len(ckpt.checkpoints(self.folder))
        there = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if missing * size > free:
            report(
                f"warning: {self.folder} is to hold {missing} more checkpoints of up to {_megabytes(size)}, but its "
                f"disk has only {_megabytes(free)} left"
            )

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of this step, and delete those that are no longer needed: the first process does."""
        if not self.folder:
            return
        started = time.monotonic()
        self.wait()
        with exchanging(self.model, self.peers):
            self.update.check_weights(state.step)
            if self._is_place_to_return(state):
                self.return_step, state.returns = state.step, 0
            if self.peers.is_first:
                self._write(self.folder, state)
            elif is_divided(self.model):
                self._help_to_write()
        self.saved_step = state.step
        state.seconds += time.monotonic() - started

    def restore(self, report: Callable[[str], None]) -> TrainState | None:
        """Go back to the newest whole checkpoint; None when there is no checkpoint at all.

        Where the best one so far is damaged, that is reported now, rather than at the end.
        """
        if not self.folder:
            return None
        self.wait()
        path = self._newest(report)
        if path is None:
            return None
        state = self._load(path, report)
        if self.peers.is_first:
            rotation.set_newer_aside(path)
            best = self.folder / ckpt.name_of(state.best_step)
            if best.name != path.name and state.best_step and (reason := damage(best)):
                report(
                    f"warning: the best checkpoint so far, {best.name}, is damaged ({reason}): restore it from a "
                    "backup, or training ends with the best of the others, if no better one comes"
                )
        due = self._due() if self.peers.is_first else []
        self.return_step = self.peers.tell(ckpt.read_train_state(due[0]).step if due else 0)
        return state

    def go_back(self, report: Callable[[str], None]) -> TrainState:
        """Go back to the newest whole checkpoint that was due, and delete those after it: another way begins there."""
        assert self.folder is not None
        self.wait()
        path = self._newest(report, among=self._due)
        if path is None:
            raise CheckpointError(
                f"the loss leaps, and the checkpoint of step {self.return_step} to return to is gone",
                where=str(self.folder),
                fix="restore it from a backup, or set training.undo_loss_spikes to null",
            )
        state = self._load(path, report)
        if self.peers.is_first:
            rotation.delete_newer(path)
        self.return_step = state.step
        return state

    @contextmanager
    def beside_training(self, report: Callable[[str], None]) -> Iterator[None]:
        """Meanwhile saves are written in the background, if so set; whatever ends it, it ends when all is written."""
        self._is_beside = self.settings.save_in_background
        try:
            yield
            self.wait()
        except BaseException:
            try:
                self.wait()
            except Exception as error:  # of two errors, the other one ends training
                report(f"warning: the last checkpoint was not written: {error}")
            raise
        finally:
            self._is_beside = False

    def look(self) -> None:
        """Raise what kept the last checkpoint from being written, where that is known by now."""
        if self._background.has_ended:
            self.wait()

    def settle(self) -> None:
        """Until nothing is being written."""
        self._background.settle()

    def wait(self) -> None:
        """Until what was begun is written; raises what kept it from that."""
        try:
            self._background.wait()
        except Exception:
            self.saved_step = self._written_step
            raise

    def wait_together(self) -> None:
        """Until the first process has written what it began: all call it."""
        self.wait()
        self.peers.wait()

    def _load(self, path: Path, report: Callable[[str], None]) -> TrainState:
        state = ckpt.read_train_state(path)
        ckpt.load_weights(self.model, ckpt.read_tensors(path / ckpt.MODEL), where=str(path))
        self.update.restore(path, state, report)
        if (wanted := self.settings.mixed_precision) is not True:  # true keeps what the first life has chosen
            self._change_precision(state, choose_precision(wanted, self.update.device))
        self.saved_step = self._written_step = state.step
        return state

    def _change_precision(self, state: TrainState, wanted: Precision) -> None:
        if wanted != state.precision:
            state.precision = wanted
            self.update.begin_scaling(wanted)

    def _is_place_to_return(self, state: TrainState) -> bool:
        return bool(self.settings.undo_loss_spikes) and save_is_due(state, self.settings)

    def _due(self) -> list[Path]:
        """The checkpoints that a spike may return to, whole or not, newest first."""
        assert self.folder is not None
        return [path for path in ckpt.checkpoints(self.folder) if self._says_that_it_was_due(path)]

    def _says_that_it_was_due(self, path: Path) -> bool:
        try:
            return self._is_place_to_return(ckpt.read_train_state(path))
        except CheckpointError:
            return False

    def _write(self, folder: Path, state: TrainState) -> None:
        state.scaler = self.update.scaler.state_dict()
        parts = ckpt.contents(self.model, self.update.optimizer, self._average, self.update.groups)
        if self._is_beside:
            self._background.begin(partial(self._put, folder, host_copies(parts), copy.deepcopy(state)))
        else:
            self._put(folder, parts, state)

    def _put(self, folder: Path, parts: Iterable[ckpt.Part], state: TrainState) -> None:
        ckpt.save_checkpoint(folder, state.step, parts, state=state.to_json())
        rotation.rotate(
            folder,
            keep=self.settings.keep_checkpoints,
            keep_validated=self.settings.average_checkpoints,
            protected={state.best_step, self.return_step},
        )
        self._written_step = state.step

    def _help_to_write(self) -> None:
        """Give the first process what it has not."""
        for _ in ckpt.contents(self.model, self.update.optimizer, self._average, self.update.groups):
            pass

    @property
    def _average(self) -> Mapping[str, Tensor] | None:
        return self.update.average.weights if self.update.average else None

    def _newest(
        self, report: Callable[[str], None], *, among: Callable[[], Sequence[Path]] | None = None
    ) -> Path | None:
        """What the first process finds, for all."""
        assert self.folder is not None
        name = None
        if self.peers.is_first:
            remove_leftovers(self.folder)
            path = ckpt.newest_valid(self.folder, report, among=among and among())
            name = path.name if path else None
        name = self.peers.tell(name)
        return self.folder / name if name else None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
