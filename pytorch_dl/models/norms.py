"""Normalisation of the residual stream over its last dimension."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models.variants import named


class RMSNorm(nn.Module):
    """Scale x to unit root mean square, then by a learned weight (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, d_model: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_model) -> the same shape."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """Shift x to mean 0 and scale it to variance 1, then by a learned weight and bias (arXiv:1607.06450)."""

    def __init__(self, d_model: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d_model) -> the same shape."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.eps)


NormFactory = Callable[[int], nn.Module]
NORMS: dict[str, Callable[[int, bool], nn.Module]] = {
    "rmsnorm": lambda d_model, bias: RMSNorm(d_model),
    "layernorm": lambda d_model, bias: LayerNorm(d_model, bias=bias),
}


def make_norm(norm_type: str | NormFactory, d_model: int, *, bias: bool) -> nn.Module:
    """Build a norm by its name, or call the factory given in its place."""
    if isinstance(norm_type, str):
        return named(NORMS, norm_type, argument="norm_type")(d_model, bias)
    return norm_type(d_model)
