"""Losses that leap: noticed against the usual one, so that training can go back to before them."""

from pytorch_dl.errors import NonFiniteError
from pytorch_dl.training.train_state import Sums, TrainState

STEPS = 100  # that the usual loss is a running mean of
MOST_RETURNS = 10  # to one checkpoint


class LossSpike(Exception):
    """A step whose loss is out of proportion. Never leaves training."""

    def __init__(self, step: int, loss: float, usual: float) -> None:
        super().__init__(f"step {step:,}: the loss is {loss:.3f}, and {usual:.3f} is usual")


class SpikeWatch:
    """Raises LossSpike where a loss per token exceeds the usual by `factor`; with None it never does."""

    def __init__(self, factor: float | None) -> None:
        self.factor = factor

    def look(self, state: TrainState, sums: Sums, *, step: int) -> None:
        """Look at the sums of a step, and note its loss in the state."""
        if self.factor is None:
            return
        loss, usual = sums.nll / sums.tgt_tokens, state.usual_loss
        if usual is not None and loss > self.factor * usual:
            raise LossSpike(step, loss, usual)
        state.usual_loss = loss if usual is None else usual + (loss - usual) / min(step, STEPS)

    def note_return(self, state: TrainState) -> None:
        """Count a return to the checkpoint of the state; raise where they do not help."""
        state.returns += 1
        if state.returns > MOST_RETURNS:
            raise NonFiniteError(
                f"the loss leaps wherever training goes on from step {state.step}: it went back {MOST_RETURNS} times",
                fix="lower training.learning_rate, or raise training.undo_loss_spikes, and begin another run",
            )
