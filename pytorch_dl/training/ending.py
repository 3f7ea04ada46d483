"""When training ends: after its steps, epochs or time, or when it makes no more progress."""

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.training.progress import duration
from pytorch_dl.training.train_state import TrainState


def end_reason(state: TrainState, settings: TrainingConfig, epochs: int) -> str | None:
    """Why training ends here, in words; None when it goes on."""
    if settings.time_limit and state.seconds >= settings.time_limit:
        return f"the time limit of {duration(settings.time_limit)} is reached"
    if settings.early_stopping_patience and state.stale_validations >= settings.early_stopping_patience:
        return f"no better {settings.early_stopping_metric} in {state.stale_validations} validations"
    if settings.max_steps:
        return "all steps are done" if state.step >= settings.max_steps else None
    return "all epochs are done" if state.epoch >= epochs else None


def seconds_left(state: TrainState, settings: TrainingConfig, total_steps: int) -> float:
    """Seconds until training ends, at the pace so far."""
    by_steps = (total_steps - state.step) * state.seconds / max(1, state.step)
    return max(0.0, min(by_steps, settings.time_limit - state.seconds) if settings.time_limit else by_steps)
