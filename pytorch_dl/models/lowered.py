"""Linear layers for reading a trained model out: weights are converted once, in one of three precisions.

Each row is rounded by itself, so that what comes out for a row does not depend on the rows beside it.

Shapes: I inputs, O outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models.variants import named

TINY = torch.finfo(torch.float32).tiny


class Product(nn.Module):
    """x W + b, where a factor for each row of x may still be outstanding: a normalisation's, which costs nothing so."""

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """x (..., I) and factor (..., 1) -> (..., O), perhaps in the lower precision where there is no factor."""
        raise NotImplementedError


class FullProduct(Product):
    """In the precision of the weights."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        if factor is None:
            return F.linear(x, self.weight, self.bias)
        out = F.linear(x, self.weight).mul_(factor)
        return out if self.bias is None else out.add_(self.bias)


class Bf16Product(Product):
    """Products of bfloat16, summed in float32."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.bfloat16(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.float(), persistent=False)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        out = F.linear(x.bfloat16(), self.weight)
        out = out if factor is None else out * factor
        return out if self.bias is None else out + self.bias


class Int8Product(Product):
    """Products of 8-bit integers, summed exactly; weights are scaled by output, activations by row as they come."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = weight.float().abs().amax(1).clamp_min(TINY) / 127  # (O,)
        whole = (weight / scale.unsqueeze(1)).round().to(torch.int8)
        self.register_buffer("weight", whole.t(), persistent=False)  # (I, O)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("bias", None if bias is None else bias.float(), persistent=False)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, x.size(-1))
        scale = rows.abs().amax(1, keepdim=True).clamp_min(TINY) / 127
        whole = torch._int_mm((rows / scale).round().to(torch.int8), self.weight).view(*x.shape[:-1], -1)  # (..., O)
        scale = scale.view(*x.shape[:-1], 1)
        out = whole * (scale if factor is None else scale * factor) * self.scale
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
