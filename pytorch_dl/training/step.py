"""One optimizer step: begun on the device, and read when its numbers have come from there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.objective import batch_loss, dropout_keys, seed_generators
from pytorch_dl.training.precision import Precision, autocast
from pytorch_dl.training.recorded_passes import RecordedPasses
from pytorch_dl.training.train_state import Sums
from pytorch_dl.training.update import StepNumbers, WeightUpdate


@dataclass(frozen=True)
class Reading:
    """A step that was begun; nothing waits for the device until `read`."""

    update: WeightUpdate
    step: int
    batches: Sequence[Batch]
    on_host: Tensor  # (3,), the fields of StepNumbers, perhaps still on their way
    copied: Any  # a CUDA event, or None where there is nothing to wait for

    def read(self) -> Sums:
        """The sums of the step; raises NonFiniteError where its loss or gradients were not finite."""
        if self.copied:
            self.copied.synchronize()
        numbers = StepNumbers(*self.on_host.tolist())
        self.update.check(numbers, self.batches, self.step)
        return Sums(
            steps=1,
            **numbers._asdict(),
            src_tokens=sum(batch.num_src_tokens for batch in self.batches),
            tgt_tokens=sum(batch.num_tgt_tokens for batch in self.batches),
            positions=sum(batch.num_positions for batch in self.batches),
        )


def begin_step(
    model: OptimizedTransformer,
    update: WeightUpdate,
    batches: Sequence[Batch],
    *,
    step: int,
    total_steps: int,
    seed: int,
    precision: Precision,
    label_smoothing: float,
    recorded: RecordedPasses | None = None,
) -> Reading:
    """Update the weights by the summed loss of the batches, divided by all their target tokens."""
    device = next(model.parameters()).device
    tokens = sum(batch.num_tgt_tokens for batch in batches)
    totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss, nll
    for index, batch in enumerate(batches):
        on_device = batch.to(device)
        keys = dropout_keys(on_device, seed=seed, step=step)
        if recorded:
            totals += recorded(on_device, keys, tokens=tokens)
            continue
        seed_generators(seed, step, index)
        with autocast(precision, device):
            loss = batch_loss(model, on_device, label_smoothing=label_smoothing, keys=keys)
        update.backward(loss.smoothed / tokens)
        totals += torch.stack((loss.smoothed.detach(), loss.nll))
    numbers = update.apply(totals, batches, step=step, total_steps=total_steps)
    on_host = numbers.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(device).record_event() if numbers.is_cuda else None
    return Reading(update, step, batches, on_host, copied)
