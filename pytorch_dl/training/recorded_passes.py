"""Forward and backward pass for batches of one shape, recorded once as a CUDA graph and replayed.

A step of a small model has over a thousand kernels, and a host that launches them one by one is slower than the GPU.

Shapes: B rows, T tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models import cuda_graphs
from pytorch_dl.models.attention import MultiHeadAttention
from pytorch_dl.models.cuda_graphs import Work
from pytorch_dl.models.feed_forward import FeedForward
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.reader import ACTIVATIONS, is_known
from pytorch_dl.training.objective import batch_loss
from pytorch_dl.training.precision import Precision, autocast

Keys = tuple[Tensor, Tensor]  # dropout keys of both sides, (B, T)
READ = ("src", "tgt_in", "labels", "src_segments", "tgt_segments", "src_positions", "tgt_positions")  # by a model


class RecordedPasses:
    """What a batch adds to the gradients. It is recorded with the first one; the weights must stay in their place."""

    def __init__(
        self,
        model: OptimizedTransformer,
        *,
        precision: Precision,
        label_smoothing: float,
        record: Callable[[Work], Work] | None = None,
    ) -> None:
        self._model, self._precision, self._label_smoothing = model, precision, label_smoothing
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._record = record or cuda_graphs.record
        self._replay: Work | None = None
        self._batch: Batch
        self._keys: Keys
        self._tokens: Tensor
        self._totals: Tensor
        self._gradients: tuple[Tensor | None, ...] = ()

    def __call__(self, batch: Batch, keys: Keys, *, tokens: int | Tensor) -> Tensor:
        """Add the gradients of a batch's loss, divided by `tokens`; returns loss and nll, (2,), until the next call."""
        self._keep_gradients()
        if self._replay is None:
            self._batch, self._keys = batch.clone(), (keys[0].clone(), keys[1].clone())
            self._tokens = torch.ones((), device=batch.src.device)
            self._replay = self._record(self._passes)
        for name in READ:
            kept, given = getattr(self._batch, name), getattr(batch, name)
            assert kept.shape == given.shape, f"passes recorded for {name} {tuple(kept.shape)} got {tuple(given.shape)}"
            kept.copy_(given)
        for own, part in zip(self._keys, keys, strict=True):
            own.copy_(part)
        self._tokens.fill_(tokens)
        self._replay()
        pairs = self._with_gradients()
        earlier = [parameter.grad for parameter, _ in pairs if parameter.grad is not None]
        if earlier:  # of all
            torch._foreach_add_(earlier, [gradient for _, gradient in pairs])
        for parameter, gradient in pairs if not earlier else ():
            parameter.grad = gradient
        return self._totals

    def _keep_gradients(self) -> None:
        """Those of the batch before, which would be overwritten."""
        held = [(parameter, gradient) for parameter, gradient in self._with_gradients() if parameter.grad is gradient]
        copies = torch._foreach_mul([gradient for _, gradient in held], 1.0) if held else ()
        for (parameter, _), copy in zip(held, copies, strict=True):
            parameter.grad = copy

    def _with_gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters that the loss depends on, and their gradients in the recording."""
        pairs = zip(self._parameters, self._gradients, strict=bool(self._gradients))
        return [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]

    def _passes(self) -> None:
        self._gradients = ()  # of a run to warm up
        with autocast(self._precision, self._batch.src.device):
            loss = batch_loss(self._model, self._batch, label_smoothing=self._label_smoothing, keys=self._keys)
        gradients = torch.autograd.grad(loss.smoothed / self._tokens, self._parameters, allow_unused=True)
        self._gradients = tuple(map(_laid_out_as, gradients, self._parameters))
        self._totals = torch.stack((loss.smoothed.detach(), loss.nll))


def can_record(model: OptimizedTransformer, precision: Precision) -> bool:
    """Whether all that a model does with a batch is known not to wait for the GPU, nor to draw random numbers."""
    parts = list(model.modules())
    draws = any(isinstance(part, MultiHeadAttention) and part.dropout for part in parts)
    own = all(part.activation in ACTIVATIONS for part in parts if isinstance(part, FeedForward))
    return (
        type(model) is OptimizedTransformer
        and next(model.parameters()).is_cuda
        and precision != "fp16"  # whose losses are scaled
        and not model.use_checkpointing
        and not draws
        and own
        and all(is_known(model, side) for side in ("encoder", "decoder"))
    )


def _laid_out_as(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """Fused optimizers take numbers as they lie."""
    return gradient if gradient is None or gradient.stride() == parameter.stride() else gradient.contiguous()
