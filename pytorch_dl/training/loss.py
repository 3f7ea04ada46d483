"""Projection onto the vocabulary and cross-entropy in one: of many tokens the logits never exist as a whole.

Rows are taken in chunks; each chunk's gradients are computed while its logits are at hand, so that nothing of size
(tokens, vocabulary) is kept for the backward pass.

Shapes: N tokens, d d_model, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ROWS = {"cpu": 1024, "cuda": 8192}  # of logits at once: fewer make the products slower
LEAN_SHARE = 11 / 32  # of such a chunk, where memory counts more than time: 352 rows, whole blocks for products
BLOCK_NUMBERS = {"cpu": 1 << 19}  # of float32 at once: on a CPU they stay in the cache
BLOCK_TOKENS = {"cpu": 2048}  # of the vocabulary whose gradient is added at once to that of earlier chunks

# logits (rows, V) and a precision -> exp(logits - shift) in that of the logits, (rows, 1) the shifts and the sums
Exponentials = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor, Tensor]]


class _Manner(NamedTuple):
    """How the loss is computed."""

    ignored: int
    smoothing: float
    rows: int  # of logits at once
    exponentials: Exponentials


class Loss(NamedTuple):
    """Sums over all labelled tokens; the caller divides by their number."""

    smoothed: Tensor  # to train on: gradients flow
    nll: Tensor  # negative log-likelihood without smoothing, in nats, to report


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignored: int,
    label_smoothing: float = 0.0,
    lean: bool = False,
    compiled: bool = False,
) -> Loss:
    """Sum of -log p(label) over hidden (..., d), weight (V, d) and labels (...), without the `ignored` ones.

    With label smoothing, the target is 1 - eps on the label plus eps / V on every token, as in torch. `lean` takes
    smaller chunks: less memory, a little slower. `compiled` fuses, on a GPU, what is done to the logits.
    """
    if not torch.is_grad_enabled():  # which a Function is not told
        hidden, weight = hidden.detach(), weight.detach()
    rows = hidden.flatten(0, -2), weight, labels.flatten()
    chunk_rows = CHUNK_ROWS.get(hidden.device.type, 1024)
    chunk_rows = max(1, int(chunk_rows * LEAN_SHARE)) if lean else chunk_rows
    exponentials = _fused_exponentials() if compiled and hidden.is_cuda else _exponentials
    manner = _Manner(ignored, label_smoothing, chunk_rows, exponentials)
    return Loss(*_LinearCrossEntropy.apply(*rows, manner))  # type: ignore[no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, manner: _Manner) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        train = any(ctx.needs_input_grad[:2])
        with torch.autocast(device, enabled=False):
            sums, grads = _forward_chunks(hidden.to(dtype), weight.to(dtype), labels, manner, train)
        if train:
            ctx.save_for_backward(grads[0].to(hidden.dtype), grads[1].to(weight.dtype))
        ctx.mark_non_differentiable(sums[1])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grad, weight_grad * grad, None, None


def _forward_chunks(
    hidden: Tensor, weight: Tensor, labels: Tensor, manner: _Manner, train: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both sums, and their gradients for hidden and weight.

    A logit's gradient is softmax - (1 - eps) [is label] - eps / V. The softmax's division is done on the products, and
    so is the last term, which is the same for all logits: what is of size (rows, V) is passed over as seldom as can be.
    """
    ignored, smoothing, rows, exponentials = manner
    accurate = torch.promote_types(weight.dtype, torch.float32)
    valid = (labels != ignored).unsqueeze(1)  # (N, 1)
    targets = labels.unsqueeze(1).where(valid, 0)
    uniform = smoothing / weight.size(0)
    hidden_sum, weight_sum = (hidden * valid).sum(0, dtype=accurate), weight.sum(0, dtype=accurate)  # (d,)
    nll = torch.zeros((), dtype=accurate, device=hidden.device)
    lse_sum = torch.zeros_like(nll)
    hidden_grad = torch.empty_like(hidden, dtype=accurate) if train else hidden
    weight_grad = -uniform * hidden_sum if train else weight  # the same for all rows, until there are products
    index = torch.arange(rows, device=hidden.device)
    block_tokens = BLOCK_TOKENS.get(hidden.device.type, weight.size(0))
    for start in range(0, max(1, hidden.size(0)), rows):
        part = slice(start, start + rows)
        logits = hidden[part] @ weight.T  # (rows, V)
        target_logits = logits.gather(1, targets[part]).to(accurate)
        exps, shift, total = exponentials(logits, accurate)
        del logits
        lse = shift + total.log()  # (rows, 1)
        nll += ((lse - target_logits) * valid[part]).sum()
        lse_sum += (lse * valid[part]).sum()
        if train:
            # Subtracted before it is rounded: of a label that is learnt little is left.
            exps[index[: len(exps)], targets[part, 0]] = (
                ((target_logits - shift).exp() - (1 - smoothing) * total).squeeze(1).to(exps.dtype)
            )
            scale = valid[part] / total
            hidden_grad[part] = (exps @ weight).to(accurate) * scale - uniform * weight_sum * valid[part]
            scaled = (hidden[part] * scale).to(hidden.dtype)
            if start:
                for token in range(0, weight.size(0), block_tokens):
                    block = slice(token, token + block_tokens)
                    weight_grad[block] += exps[:, block].T @ scaled
                del exps
                continue
            products = exps.T @ scaled  # (V, d)
            del exps  # the largest of all that lives, and not needed any more
            weight_grad = products.to(accurate).add_(weight_grad)
            del products
    smoothed = (1 - smoothing) * nll + smoothing * (lse_sum - hidden_sum @ weight_sum / weight.size(0))
    return (smoothed, nll), (hidden_grad, weight_grad)


def _exponentials(logits: Tensor, accurate: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """In the place of the logits."""
    shift, total = (torch.empty(logits.size(0), 1, dtype=accurate, device=logits.device) for _ in range(2))
    block = BLOCK_NUMBERS.get(logits.device.type, logits.numel())
    rows = max(1, block // logits.size(1))
    for start in range(0, logits.size(0), rows):
        part = slice(start, start + rows)
        wide, shift[part], total[part] = _wide_exponentials(logits[part], accurate)
        logits[part] = wide
        del wide  # before the next one is made
    return logits, shift, total


@cache
def _fused_exponentials() -> Exponentials:
    """Compiled: the logits are read twice and written once."""

    def exponentials(logits: Tensor, accurate: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        wide, shift, total = _wide_exponentials(logits, accurate)
        return wide.to(logits.dtype), shift, total

    return torch.compile(exponentials)


def _wide_exponentials(logits: Tensor, accurate: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    wide = logits.to(accurate)
    shift = wide.amax(1, keepdim=True)
    wide.sub_(shift).exp_()
    total = wide.sum(1, keepdim=True)
    if logits.dtype == torch.float16:  # which has no room for a large vocabulary's sum
        wide.div_(total)
        shift, total = shift + total.log(), torch.ones_like(total)
    return wide, shift, total
