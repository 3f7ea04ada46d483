"""What those that are compared have in common."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pytorch_dl.dataset.batching import Batch


class Side(Protocol):
    """One that trains."""

    model: Any
    name: str
    what: str

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of any kind."""
        ...

    def step(self, batch: Batch) -> float:
        """One step of training; returns the loss of a target token."""
        ...


@runtime_checkable
class Reads(Side, Protocol):
    """One that also translates."""

    def decode(self, src: Tensor, new_tokens: int) -> Tensor:
        """src (B, S) -> the likeliest tokens, one after another, (B, new_tokens)."""
        ...
