"""Which steps are validated and saved: those that the settings name, wherever training is stopped in between."""

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.training.train_state import TrainState


def validation_is_due(state: TrainState, settings: TrainingConfig) -> bool:
    """Whether there is a validation after this step, with which it is saved."""
    return state.step % settings.eval_every == 0 if settings.eval_every else state.batch == 0


def save_is_due(state: TrainState, settings: TrainingConfig) -> bool:
    """Whether this step is saved whatever happens: not only because training was stopped after it."""
    if settings.save_every and state.step % settings.save_every == 0:
        return True
    return validation_is_due(state, settings)
