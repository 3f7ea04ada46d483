"""The weights that training ends with: of the best checkpoint, or the average of the last ones where it is better."""

from collections.abc import Callable

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
