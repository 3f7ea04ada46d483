"""Memory that does not suffice for a batch: the error names the batch."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ResourceError, is_out_of_memory

Compute = TypeVar("Compute", bound=Callable[..., Any])


def names_its_batch(compute: Compute) -> Compute:
    """Let a method that computes on a batch of a step tell which one it had too little memory for."""

    @functools.wraps(compute)
    def named(self: object, batch: Batch, *, step: int, slot: int, **rest: Any) -> Any:
        try:
            return compute(self, batch, step=step, slot=slot, **rest)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            rows, src = batch.src.shape
            tokens = batch.num_src_tokens + batch.num_tgt_tokens
            raise ResourceError(
                f"out of memory at step {step} on its batch {slot + 1}: {rows} rows of {src} source and "
                f"{batch.tgt_in.size(1)} target positions, {tokens:,} tokens in all",
                fix="lower data.max_tokens_per_batch or data.max_length, or the size of the model",
            ) from error

    return cast(Compute, named)
