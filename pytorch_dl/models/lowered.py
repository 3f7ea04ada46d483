"""Linear layers in lower precision, for reading a trained model out: weights are converted once.

Everything between the products stays in single precision: attention over the few tokens of a sentence is faster so, and
the stream loses nothing from layer to layer. Each row is rounded by itself, so that what comes out for a row does not
depend on the rows beside it.

Shapes: R rows, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.models.variants import named


class Bf16Linear(nn.Module):
    """Products of bfloat16, summed in float32."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().bfloat16())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O) in float32."""
        return F.linear(x.bfloat16(), self.weight, self.bias).float()


class Int8Linear(nn.Module):
    """Products of 8-bit integers, summed exactly; weights are scaled by output, activations by row as they come."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127  # (O,)
        self.register_buffer("weight", (weight / scale.unsqueeze(1)).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O) in float32."""
        rows = x.reshape(-1, x.size(-1))  # (R, I)
        scale = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127  # (R, 1)
        whole = torch._int_mm((rows / scale).round().to(torch.int8), self.weight.t())  # (R, O)
        out = whole.float().mul_(scale).mul_(self.scale)
        return (out if self.bias is None else out.add_(self.bias)).view(*x.shape[:-1], -1)


LOWERED = {"bf16": Bf16Linear, "int8": Int8Linear}


def lower(model: nn.Module, precision: str) -> None:
    """Replace the linear layers of a model that is not trained further: bf16 or int8; fp32 leaves them."""
    if precision == "fp32":
        return
    lowered = named(LOWERED, precision, argument="precision")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, lowered(child))
