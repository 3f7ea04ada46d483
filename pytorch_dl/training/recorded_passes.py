"""Forward and backward pass for batches of one shape, recorded once as a CUDA graph and replayed.

A step of a small model has over a thousand kernels, and a host that launches them one by one is slower than the GPU.

Shapes: B rows, T tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.attention import MultiHeadAttention
from pytorch_dl.models.cuda_graphs import CudaGraphs, Work
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.reader import is_known
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
        self._record = record or CudaGraphs()
        self._replay: Work | None = None
        self._batch: Batch
        self._keys: Keys
        self._tokens: Tensor
        self._totals: Tensor
        self._gradients: tuple[Tensor, ...] = ()

    def __call__(self, batch: Batch, keys: Keys, *, tokens: int) -> Tensor:
        """Add the gradients of a batch's loss, divided by `tokens`; returns loss and nll, (2,), until the next call."""
        self._keep_gradients()
        if self._replay is None:
            self._batch, self._keys = batch.clone(), (keys[0].clone(), keys[1].clone())
            self._tokens = torch.full((), float(tokens), device=batch.src.device)
            self._replay = self._record(self._passes)
        for name in READ:
            getattr(self._batch, name).copy_(getattr(batch, name))
        for kept, part in zip(self._keys, keys, strict=True):
            kept.copy_(part)
        self._tokens.fill_(tokens)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return self._totals

    def _keep_gradients(self) -> None:
        """Those of the batch before, which would be overwritten."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=bool(self._gradients)):
            if parameter.grad is gradient:
                parameter.grad = gradient.clone()

    def _passes(self) -> None:
        with autocast(self._precision, self._batch.src.device):
            loss = batch_loss(self._model, self._batch, label_smoothing=self._label_smoothing, keys=self._keys)
        gradients = torch.autograd.grad(loss.smoothed / self._tokens, self._parameters)
        self._gradients = tuple(map(_laid_out_as, gradients, self._parameters))
        self._totals = torch.stack((loss.smoothed.detach(), loss.nll))


def can_record(model: OptimizedTransformer, precision: Precision) -> bool:
    """Whether all that a model does with a batch is known not to wait for the GPU, nor to draw random numbers."""
    draws = any(isinstance(part, MultiHeadAttention) and part.dropout for part in model.modules())
    return (
        next(model.parameters()).is_cuda
        and precision != "fp16"  # whose losses are scaled
        and not model.use_checkpointing
        and not draws
        and all(is_known(model, side) for side in ("encoder", "decoder"))
    )


def _laid_out_as(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Fused optimizers take numbers as they lie."""
    return gradient if gradient.stride() == parameter.stride() else gradient.contiguous()
