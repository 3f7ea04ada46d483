"""The batches of one optimizer step after another, from where training is, without end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ConfigError
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.loaders import shared_batches
from pytorch_dl.training.peers import ALONE, Peers
from pytorch_dl.training.train_state import TrainState


class Group(NamedTuple):
    """The batches of one optimizer step: of `size` slots, those that fall to this process."""

    batches: Mapping[int, Batch]
    size: int
    ends_epoch: bool

    @classmethod
    def share_of(cls, batches: Sequence[Batch], peers: Peers) -> Self:
        """What of a step's batches falls to this process."""
        own = {slot: batch for slot, batch in enumerate(batches) if peers.is_mine(slot)}
        return cls(own, len(batches), ends_epoch=False)


def groups(
    loader: object, state: TrainState, *, size: int, model: OptimizedTransformer, peers: Peers = ALONE
) -> Iterator[Group]:
    """Groups of `size` batches, the last of an epoch perhaps smaller; `state` tells where each epoch begins."""
    while True:
        epoch, filled = state.epoch, 0
        group: dict[int, Batch] = {}
        for batch in shared_batches(loader, epoch, state.batch, model=model, peers=peers, slots=size):
            if filled == size:
                yield Group(group, size, ends_epoch=False)
                group, filled = {}, 0
            if batch is not None:
                group[filled] = batch
            filled += 1
        if not filled:
            raise ConfigError(f"the training data gave no batch in epoch {epoch + 1}")
        yield Group(group, filled, ends_epoch=True)


def steps_per_epoch(loader: object, *, size: int) -> int:
    """Optimizer steps of `size` batches in the first epoch."""
    if not hasattr(loader, "__len__"):
        raise ConfigError("the training loader has no length", fix="set training.max_steps")
    return math.ceil(len(loader) / size)
