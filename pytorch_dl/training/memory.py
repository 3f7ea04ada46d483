"""Memory that does not suffice: tried in the first steps, and told with the batch that asked for it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.errors import ResourceError, is_out_of_memory
from pytorch_dl.training.metrics import memory_mb
from pytorch_dl.training.step import Passes


@contextmanager
def telling_of_memory(batches: Iterable[Batch], *, step: int, device: torch.device) -> Iterator[None]:
    """Raise ResourceError where memory does not suffice for one of the batches; the weights are as they were."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        batch = max(batches, key=lambda batch: batch.num_positions)
        (rows, src), tgt = batch.src.shape, batch.tgt_in.size(1)
        raise ResourceError(
            f"out of memory at step {step}, on a batch of {rows:,} rows, {src:,} source and {tgt:,} target positions "
            f"wide, {batch.num_src_tokens + batch.num_tgt_tokens:,} tokens; {_in_use(device)}",
            fix="lower data.max_tokens_per_batch, and raise training.gradient_accumulation_steps as much; or switch "
            "model.use_checkpointing on",
        ) from error


def try_largest(passes: Passes, loader: object, *, epoch: int, start: int, step: int) -> None:
    """Compute gradients of the largest batches to come in the epoch, and drop them: for the memory they take.

    Once a step was done, that is: the optimizer has its own memory then.
    """
    if not isinstance(loader, BatchLoader) or loader.has_one_shape:
        return
    for batch in loader.largest(epoch, start):
        with telling_of_memory([batch], step=step, device=passes.device):
            passes(batch, step=step, slot=0, tokens=batch.num_tgt_tokens)
        passes.model.zero_grad(set_to_none=True)


def _in_use(device: torch.device) -> str:
    """What is known of memory there."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        sizes = (total, free, torch.cuda.max_memory_allocated(device))
        whole, left, own = (f"{size / 2**20:,.0f} MB" for size in sizes)
        return f"the GPU has {whole}, {left} are free, and {own} were in use here at most"
    return f"{memory_mb()['peak_rss_mb']:,.0f} MB were in use at most"
