"""Memory that does not suffice for a batch: the error names the batch, and what was in use."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ResourceError, is_out_of_memory
from pytorch_dl.training.metrics import memory_mb

Compute = TypeVar("Compute", bound=Callable[..., Any])


def names_its_batch(compute: Compute) -> Compute:
    """Let a method that computes on a batch of a step tell which one it had too little memory for."""

    @functools.wraps(compute)
    def named(self: Any, batch: Batch, *, step: int, slot: int, **rest: Any) -> Any:
        try:
            return compute(self, batch, step=step, slot=slot, **rest)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            rows, src = batch.src.shape
            tokens = batch.num_src_tokens + batch.num_tgt_tokens
            raise ResourceError(
                f"out of memory at step {step} on its batch {slot + 1}: {rows} rows of {src} source and "
                f"{batch.tgt_in.size(1)} target positions, {tokens:,} tokens in all; {_in_use(self.device)}",
                fix="lower data.max_tokens_per_batch, and raise training.gradient_accumulation_steps as much; or lower "
                "data.max_length or the size of the model, or switch model.use_checkpointing on",
            ) from error

    return cast(Compute, named)


def _in_use(device: torch.device) -> str:
    """What is known of memory there."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        whole, left, own = (
            f"{size / 2**20:,.0f} MB" for size in (total, free, torch.cuda.max_memory_allocated(device))
        )
        return f"the GPU has {whole}, {left} are free, and {own} were in use here at most"
    return f"{memory_mb()['peak_rss_mb']:,.0f} MB were in use at most"
