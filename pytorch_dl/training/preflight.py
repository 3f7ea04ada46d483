"""Passes before the training, or beside it, whose result nobody keeps."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.sharding import exchanging
from pytorch_dl.training.step import Passes
from pytorch_dl.training.train_state import TrainState


@contextmanager
def without_trace(model: OptimizedTransformer) -> Iterator[None]:
    """Leave no gradients, and the buffers as they were: a layer of the user's own may count in them."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def try_largest(passes: Passes, loader: object, state: TrainState, peers: Peers) -> None:
    """Let memory that does not suffice for the epoch's largest batches lack now, not after hours.

    Once a step was done, that is: the optimizer has its own memory then.
    """
    if not isinstance(loader, BatchLoader) or loader.has_one_shape:
        return
    for batch in loader.largest(state.epoch, state.batch):
        with without_trace(passes.model), exchanging(passes.model, peers):
            passes(batch, step=state.step, slot=0, tokens=batch.num_tgt_tokens)
