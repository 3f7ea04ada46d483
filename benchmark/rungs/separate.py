"""Queries, keys and values projected in separate products: what the fused projection is held against.

Shapes: B batch, T queries, S keys, d d_model.
"""

from typing import Self

import torch
from torch import Tensor, nn

from pytorch_dl.models.attention import MultiHeadAttention
from pytorch_dl.models.optimized_transformer import OptimizedTransformer


class SeparateProjections(nn.Module):
    """The products of one fused projection, one by one; their weights are its rows."""

    def __init__(self, fused: nn.Linear, parts: list[int]) -> None:
        super().__init__()
        assert fused.bias is None
        weights = torch.split(fused.weight.detach().clone(), parts)
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, d) -> what the fused projection gives."""
        return torch.cat([nn.functional.linear(x, weight) for weight in self.weights], dim=-1)

    @classmethod
    def replace_in(cls, model: OptimizedTransformer) -> None:
        """Let every attention of the model project apart."""
        for module in model.modules():
            if isinstance(module, MultiHeadAttention):
                query, key, dim = module.heads
                if hasattr(module, "qkv_proj"):
                    module.qkv_proj = cls._of(module.qkv_proj, [query * dim, key * dim, key * dim])
                else:
                    module.kv_proj = cls._of(module.kv_proj, [key * dim, key * dim])

    @classmethod
    def _of(cls, fused: nn.Module, parts: list[int]) -> Self:
        assert isinstance(fused, nn.Linear)
        return cls(fused, parts)
