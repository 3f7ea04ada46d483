"""What processes must have in common to train as one: several that trained different things would not notice."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.errors import ConfigError
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.sharding import is_divided

_BYTES_AT_ONCE = 1 << 22  # of a weight: with their places, in int64, they take 100 MB at most


def require_a_batch_for_each(peers: Peers, settings: TrainingConfig) -> None:
    """Raise when a step has fewer batches than there are processes."""
    batches = settings.gradient_accumulation_steps
    if batches < peers.size:
        raise ConfigError(
            f"training.gradient_accumulation_steps is {batches}: a step has fewer batches than there are processes "
            f"({peers.size}), and some would have nothing to do",
            fix=f"set it to {peers.size} or more, and data.max_tokens_per_batch to what one of them is to take",
        )


def require_same(peers: Peers, model: nn.Module, loader: object, *, settings: Mapping[str, Any], step: int) -> None:
    """Raise on all processes, naming what differs, unless they begin alike."""
    if peers.size == 1:
        return
    own = {
        **settings,
        "step": step,
        "torch": torch.__version__,
        "CPU threads": torch.get_num_threads(),
        "batches": len(loader) if hasattr(loader, "__len__") else None,
        "weights": {} if is_divided(model) else _digests(model),
    }
    peers.refuse_difference(own, what="the processes of a training differ")


def require_same_weights(peers: Peers, model: nn.Module) -> None:
    """The same of weights alone, which cannot be compared once they are divided."""
    peers.refuse_difference(_digests(model), what="the weights that processes begin with differ")


def _digests(model: nn.Module) -> dict[str, int]:
    return {name: _digest(weight) for name, weight in model.named_parameters()}


def _digest(weight: Tensor) -> int:
    """A number that another weight hardly has: the sum of its bytes, each times its place."""
    total, place = 0, 1
    for part in torch.split(weight.detach().flatten().view(torch.uint8), _BYTES_AT_ONCE):
        places = torch.arange(place, place + len(part), device=part.device)
        total += int((part * places).sum())
        place += len(part)
    return total
