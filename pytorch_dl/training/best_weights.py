"""The weights that training ends with: of the best checkpoint, or the average of the last ones where it is better."""

from collections.abc import Callable
from pathlib import Path

from pytorch_dl.files import damage
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import rotation
from pytorch_dl.training.checkpointer import Checkpointer
from pytorch_dl.training.train_state import TrainState


class BestWeights:
    """Gives the model the best weights that training found, in place of its last ones, and takes them back.

    Without checkpoints they are the moving average, where there is one.
    """

    def __init__(self, checkpoints: Checkpointer) -> None:
        self.checkpoints = checkpoints
        self.are_in_use = False
        self.are_average = False  # of the last checkpoints

    def use(self, state: TrainState, *, validate: Callable[[], float] | None, say: Callable[[str], None]) -> None:
        """Load what validated best, or the average of the last checkpoints if `validate` finds it better."""
        self.are_in_use, self.are_average = True, False
        if not self.checkpoints.folder:
            self._swap_average()
            return
        self.checkpoints.wait_together()
        self._leave_damaged(state, validate, say)
        self._load_best(state)
        if validate:
            self.are_average = self._use_average_if_better(state, validate, say)

    def take_back(self, resume: Callable[[], object]) -> None:
        """Let the model have its last weights again, which `resume` loads: training goes on from them."""
        if not self.are_in_use:
            return
        if self.checkpoints.folder:
            resume()
        else:
            self._swap_average()
        self.are_in_use = False

    def _swap_average(self) -> None:
        if self.checkpoints.update.average:
            self.checkpoints.update.average.swap(self.checkpoints.model)

    def _load_best(self, state: TrainState) -> None:
        folder = self.checkpoints.folder
        assert folder is not None
        ckpt.load_weights(self.checkpoints.model, ckpt.weights_of(folder, state.best_step), where=str(folder))

    def _leave_damaged(
        self, state: TrainState, validate: Callable[[], float] | None, say: Callable[[str], None]
    ) -> None:
        """Where the best checkpoint is damaged, let the best of the others be it; without validation, the last."""
        folder, peers = self.checkpoints.folder, self.checkpoints.peers
        assert folder is not None
        lost = ckpt.name_of(state.best_step)
        reason = peers.tell(damage(folder / lost) if peers.is_first else None)
        if not reason:
            return
        validated = validate is not None
        steps: list[int] = peers.tell(_whole_steps(folder, validated=validated, say=say) if peers.is_first else None)
        state.best_step, state.best_value = steps[-1], None
        for step in steps if validate else ():
            assert validate
            ckpt.load_weights(self.checkpoints.model, ckpt.weights_of(folder, step), where=str(folder))
            if state.is_better(value := validate(), self.checkpoints.settings):
                state.best_step, state.best_value = step, value
        say(
            f"warning: the best checkpoint, {lost}, is damaged ({reason}): training ends with "
            f"{ckpt.name_of(state.best_step)}, {'the best' if validate else 'the last'} of {len(steps)} that are whole"
        )

    def _use_average_if_better(
        self, state: TrainState, validate: Callable[[], float], say: Callable[[str], None]
    ) -> bool:
        folder, settings = self.checkpoints.folder, self.checkpoints.settings
        assert folder is not None
        last = rotation.validated(folder, settings.average_checkpoints)
        if len(last) < 2:
            return False
        ckpt.load_weights(self.checkpoints.model, ckpt.averaged(self.checkpoints.model, last), where=str(folder))
        value, least = validate(), settings.early_stopping_min_delta
        better = state.is_better(value, settings)
        verdict = "used" if better else f"not better than {state.best_value:.4f}" + (f" by {least:g}" if least else "")
        say(f"average of the last {len(last)} checkpoints: {settings.early_stopping_metric} {value:.4f}, {verdict}")
        if not better:
            self._load_best(state)
        return better


def _whole_steps(folder: Path, *, validated: bool, say: Callable[[str], None]) -> list[int]:
    """The steps of the whole checkpoints that were validated, in order; of the newest one where there are none."""
    found: list[Path | None] = []
    if validated:
        found += rotation.validated(folder, len(ckpt.checkpoints(folder)))
    found = found or [ckpt.newest_valid(folder, say)]
    return [ckpt.read_train_state(path).step for path in reversed(found) if path]
