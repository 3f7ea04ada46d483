"""Linear layers for reading a trained model out: weights are converted once, in one of three precisions.

Each row is rounded by itself, so that what comes out for a row does not depend on the rows beside it.

Shapes: I inputs, O outputs.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models.variants import named

PACKED_INPUTS = 1024  # the most
TINY = torch.finfo(torch.float32).tiny


class Product(Protocol):
    """x W + b, where each row of x may come with a factor, a normalisation's.

    No module: calling one takes as long as a small product.
    """

    def __call__(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """x (..., I) and factor (..., 1) -> (..., O), perhaps in the lower precision."""
        ...


class FullProduct:
    """In the precision of the weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        return F.linear(x if factor is None else x * factor, self.weight, self.bias)


class Bf16Product:
    """Products of bfloat16, summed in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.is_packed = can_pack(weight)
        half = weight.bfloat16()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(half.contiguous()) if self.is_packed else half
        self.bias = None if bias is None else bias.float()

    def __call__(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        half = (x if factor is None else x * factor).bfloat16()
        if self.is_packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(half, self.weight, None, "none", [], "")
        else:
            out = F.linear(half, self.weight)
        return out if self.bias is None else out + self.bias


def can_pack(weight: Tensor) -> bool:
    """Whether a weight (O, I) may lie in the order in which oneDNN reads it, which it else makes at every product.

    Longer inputs are left alone: of those oneDNN has a faster way for many rows, which it does not find so.
    """
    fits = weight.device.type == "cpu" and weight.size(1) <= PACKED_INPUTS
    return fits and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # type: ignore[no-untyped-call]


class Int8Product:
    """Products of 8-bit integers, summed exactly; weights are scaled by output, activations by row as they come."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scale = weight.float().abs().amax(1).clamp_min(TINY) / 127  # (O,)
        whole = (weight / scale.unsqueeze(1)).round().to(torch.int8)
        self.weight, self.scale = whole.t(), scale  # (I, O), (O,)
        self.bias = None if bias is None else bias.float()

    def __call__(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, x.size(-1))
        scale = rows.abs().amax(1, keepdim=True).clamp_min(TINY) / 127
        whole = torch._int_mm((rows / scale).round().to(torch.int8), self.weight).view(*x.shape[:-1], -1)  # (..., O)
        scale = scale.view(*x.shape[:-1], 1)
        out = whole.float().mul_(scale if factor is None else scale * factor).mul_(self.scale)
        return out if self.bias is None else out.add_(self.bias)


PRODUCTS: dict[str, type[FullProduct] | type[Bf16Product] | type[Int8Product]] = {
    "fp32": FullProduct,
    "bf16": Bf16Product,
    "int8": Int8Product,
}


class LoweredLinear(nn.Module):
    """A product in the place of a linear layer."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O) in the precision of x."""
        out: Tensor = self.product(x)
        return out.to(x.dtype)


def product_of(linear: nn.Linear, precision: str, *, scale: Tensor | None = None) -> Product:
    """The product of a linear layer, with its inputs times `scale` (I,)."""
    weight = linear.weight.detach()
    bias = None if linear.bias is None else linear.bias.detach()
    return named(PRODUCTS, precision, argument="precision")(weight if scale is None else weight * scale, bias)


def lower(module: nn.Module, precision: str) -> None:
    """Replace the linear layers in a module that is not trained further."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, LoweredLinear(product_of(child, precision)))
