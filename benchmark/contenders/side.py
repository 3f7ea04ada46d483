"""What those that are compared have in common."""

from typing import Any, Protocol

import torch
from torch import Tensor

from pytorch_dl.dataset.batching import Batch


class Trains(Protocol):
    """One that trains."""

    model: Any

    def step(self, batch: Batch) -> float:
        """One step of training; returns the loss of a target token."""
        ...


class Side(Trains, Protocol):
    """One of a race."""

    name: str
    what: str
    optimizer: torch.optim.Optimizer


class Reads(Side, Protocol):
    """One that also translates."""

    def decode(self, src: Tensor, new_tokens: int) -> Tensor:
        """src (B, S) -> the likeliest tokens, one after another, (B, new_tokens)."""
        ...
