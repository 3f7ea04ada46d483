"""The batches of one optimizer step after another, from where training is, without end."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ConfigError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.loaders import batches_from
from pytorch_dl.training.train_state import TrainState


class Group(NamedTuple):
    """The batches of one optimizer step."""

    batches: list[Batch]
    ends_epoch: bool


def groups(loader: object, state: TrainState, *, size: int, model: OptimizedTransformer) -> Iterator[Group]:
    """Groups of `size` batches, the last of an epoch perhaps smaller; `state` tells where each epoch begins."""
    while True:
        group: list[Batch] = []
        epoch = state.epoch
        for batch in batches_from(loader, epoch, state.batch, model=model):
            if len(group) == size:
                yield Group(group, ends_epoch=False)
                group = []
            group.append(batch)
        if not group:
            raise ConfigError(f"the training data gave no batch in epoch {epoch + 1}")
        yield Group(group, ends_epoch=True)


def steps_per_epoch(loader: object, *, size: int) -> int:
    """Optimizer steps of `size` batches in the first epoch."""
    if not hasattr(loader, "__len__"):
        raise ConfigError("the training loader has no length", fix="set training.max_steps")
    return math.ceil(len(loader) / size)
