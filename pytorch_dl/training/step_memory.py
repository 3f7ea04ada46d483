"""What lives in a step of a training, as a profile and an estimate tell it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pytorch_dl.training.live_memory import LiveMemory, Peak, optimizer_bytes, weight_bytes
from pytorch_dl.training.trainer import OptimizedTrainer


@dataclass(frozen=True)
class Memory:
    """Bytes. Of gradients and activations those that live at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    """The moving average of the weights."""
    activations: int
    peak: int
    """Of all of these together, in a step."""
    process_peak: int | None = None
    """Of the whole process, as the system counts it; None where nothing was run."""


@contextmanager
def watched_step(trainer: OptimizedTrainer) -> Iterator[LiveMemory]:
    """Around a step: what lives in it. Passes that are replayed are recorded anew: replays allocate nothing."""
    if trainer.replays_passes:
        trainer.record_passes()
    with LiveMemory(trainer.model, trainer.update.optimizer, recorded=trainer.replays_passes) as live:
        yield live


def memory_of(trainer: OptimizedTrainer, peaks: Sequence[Peak]) -> Memory:
    """All that it holds at the most, by the peaks of steps that were watched."""
    weights, optimizer = weight_bytes(trainer.model), optimizer_bytes(trainer.update.optimizer)
    average = sum(tensor.nbytes for tensor in trainer.update.average.weights.values()) if trainer.update.average else 0
    # Recorded passes keep the place of their activations while the gradients of several batches are added up beside;
    # where these take more than the activations, this tells up to so much too much.
    sums = weights if trainer.replays_passes and trainer.settings.gradient_accumulation_steps > 1 else 0
    activations, peak = max(peak.activations for peak in peaks), max(peak.total for peak in peaks)
    return Memory(weights, weights, optimizer, average, activations, peak + average + sums)
