"""The weights that training ends with: of the best checkpoint, or the average of the last ones where it is better."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training import rotation
from pytorch_dl.training.train_state import TrainState


def use_best(model: nn.Module, folder: Path, state: TrainState) -> None:
    """Load the weights that validated best."""
    ckpt.load_weights(model, ckpt.weights_of(folder, state.best_step), where=str(folder))


def use_average_if_better(
    model: nn.Module,
    folder: Path,
    state: TrainState,
    settings: TrainingConfig,
    *,
    validate: Callable[[], float],
    say: Callable[[str], None],
) -> bool:
    """Replace the best weights by the average of the last validated checkpoints if `validate` finds it better."""
    last = rotation.validated(folder, settings.average_checkpoints)
    if len(last) < 2:
        return False
    ckpt.load_weights(model, ckpt.averaged(last), where=str(folder))
    value, best, metric = validate(), state.best_value, settings.early_stopping_metric
    better = best is None or (value != best and (value > best) == (metric != "val_loss"))
    verdict = "used" if better else f"not better than {best:.4f}"
    say(f"average of the last {len(last)} checkpoints: {metric} {value:.4f}, {verdict}")
    if not better:
        use_best(model, folder, state)
    return better
