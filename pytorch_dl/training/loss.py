"""Projection onto the vocabulary and cross-entropy in one: the logits never exist as a whole.

Rows are taken in chunks; each chunk's gradients are computed while its logits are at hand, so that nothing of size
(tokens, vocabulary) is kept for the backward pass.

Shapes: N tokens, d d_model, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ROWS = {"cpu": 256, "cuda": 4096}  # on a CPU a chunk's logits stay in the cache


class Loss(NamedTuple):
    """Sums over all labelled tokens; the caller divides by their number."""

    smoothed: Tensor  # to train on: gradients flow
    nll: Tensor  # negative log-likelihood without smoothing, in nats, to report


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, ignored: int, label_smoothing: float = 0.0
) -> Loss:
    """Sum of -log p(label) over hidden (..., d), weight (V, d) and labels (...), without the `ignored` ones.

    With label smoothing, the target is 1 - eps on the label plus eps / V on every token, as in torch.
    """
    rows = hidden.flatten(0, -2), weight, labels.flatten()
    return Loss(*_LinearCrossEntropy.apply(*rows, ignored, label_smoothing))  # type: ignore[no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, ignored: int, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        train = any(ctx.needs_input_grad[:2])
        with torch.autocast(device, enabled=False):
            sums, grads = _forward_chunks(hidden.to(dtype), weight.to(dtype), labels, ignored, smoothing, train)
        if train:
            ctx.save_for_backward(grads[0].to(hidden.dtype), grads[1].to(weight.dtype))
        ctx.mark_non_differentiable(sums[1])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grad, weight_grad * grad, None, None, None


def _forward_chunks(
    hidden: Tensor, weight: Tensor, labels: Tensor, ignored: int, smoothing: float, train: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    accurate = torch.promote_types(weight.dtype, torch.float32)
    smoothed, nll = (torch.zeros((), dtype=accurate, device=hidden.device) for _ in range(2))
    hidden_grad = torch.empty_like(hidden) if train else hidden
    weight_grad = torch.zeros_like(weight, dtype=accurate) if train else weight
    rows = CHUNK_ROWS.get(hidden.device.type, 1024)
    for start in range(0, hidden.size(0), rows):
        part = slice(start, start + rows)
        logits = (hidden[part] @ weight.T).to(accurate)  # (rows, V)
        valid = labels[part] != ignored
        target = labels[part].where(valid, 0).unsqueeze(1)
        lse = logits.logsumexp(dim=1)
        token_nll = (lse - logits.gather(1, target).squeeze(1)) * valid
        nll += token_nll.sum()
        smoothed += (1 - smoothing) * token_nll.sum() + smoothing * ((lse - logits.mean(dim=1)) * valid).sum()
        if train:
            grad = logits.sub_(lse.unsqueeze(1)).exp_().sub_(smoothing / weight.size(0))
            grad.scatter_add_(1, target, grad.new_full((), smoothing - 1).expand_as(target))
            grad = grad.mul_(valid.unsqueeze(1)).to(weight.dtype)
            torch.mm(grad, weight, out=hidden_grad[part])
            weight_grad += grad.T @ hidden[part]
    return (smoothed, nll), (hidden_grad, weight_grad)
