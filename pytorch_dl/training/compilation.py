"""Whether compiling the layers pays within a training: it takes half a minute, then steps are about a third faster."""

import time
from collections.abc import Callable
from typing import Literal

import torch

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.errors import ConfigError
from pytorch_dl.models.compilers import missing_for_compilation
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.loaders import batches_from
from pytorch_dl.training.objective import batch_loss, dropout_keys
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.precision import Precision, autocast
from pytorch_dl.training.preflight import without_trace
from pytorch_dl.training.sharding import is_divided
from pytorch_dl.training.train_state import TrainState

WORTH_SECONDS = 150.0  # of training without it: then what it saves is about twice what it costs
TIMED_STEPS = 3
Compile = bool | Literal["auto"]


def compiles_together(
    wanted: Compile | None,
    model: OptimizedTransformer,
    loader: object,
    state: TrainState,
    *,
    steps: int,
    time_limit: float | None,
    peers: Peers,
    say: Callable[[str], None],
) -> bool:
    """What `compiles` says in the first process, for all of them, and once for all lives of a training.

    Other kernels give other bits: a training that was compiled, or was not, goes on so, unless it is told otherwise.
    None leaves it at that, and does not compile what begins.
    """
    if is_divided(model):
        say(
            f"weights, gradients and optimizer state are divided among {peers.size} processes; layers are then neither "
            "compiled nor recorded"
        )
        return False
    if wanted is None or (wanted == "auto" and state.step):
        wanted = state.compiled
    compiled = False
    if peers.is_first:
        compiled = compiles(
            wanted, model, loader, steps=steps, time_limit=time_limit, precision=state.precision, say=say
        )
    compiled = bool(peers.tell(compiled))
    if compiled and not peers.is_first:
        compile_layers(model, loader, precision=state.precision, say=say)
    return compiled


def compiles(
    wanted: Compile,
    model: OptimizedTransformer,
    loader: object,
    *,
    steps: int,
    time_limit: float | None,
    precision: Precision,
    say: Callable[[str], None],
) -> bool:
    """Compile the layers for a training of so many batches, or not; left to us, batches of one shape, if it pays.

    Times some steps on the first batch, and leaves the weights as they were.
    """
    if wanted != "auto":
        if wanted:
            compile_layers(model, loader, precision=precision, say=say)
        return wanted
    device = next(model.parameters()).device
    if missing_for_compilation(device.type) or not getattr(loader, "has_one_shape", False):
        return False
    batch = next(batches_from(loader, 0, 0, model=model)).to(device)
    seconds = steps * min(_step_seconds(model, batch, precision) for _ in range(TIMED_STEPS))
    if min(seconds, time_limit or seconds) < WORTH_SECONDS:
        return False
    try:
        compile_layers(model, loader, precision=precision, say=say)
    except ConfigError as error:
        say(f"warning: training without compiled layers, which would be faster: {error}")
        return False
    return True


def compile_layers(
    model: OptimizedTransformer, loader: object, *, precision: Precision, say: Callable[[str], None]
) -> None:
    """Compile the layers, and try them on the first batch: a compiler that fails shows now."""
    import torch._dynamo

    say("compiling the layers, which takes up to half a minute")
    batch = next(batches_from(loader, 0, 0, model=model)).to(next(model.parameters()).device)
    model.compile_layers()
    try:
        _step_seconds(model, batch, precision)
    except torch._dynamo.exc.TorchDynamoException as error:
        model.forget_compiled()
        missing = missing_for_compilation(batch.src.device.type)
        what = f"{missing} is missing" if missing else str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the layers cannot be compiled: {what}",
            fix="install a C++ compiler and Python's headers, or set system.compile to false",
        ) from error


def _step_seconds(model: OptimizedTransformer, batch: Batch, precision: Precision) -> float:
    start = time.perf_counter()
    with without_trace(model):
        with autocast(precision, batch.src.device):
            loss = batch_loss(model, batch, keys=dropout_keys(batch, seed=0, step=0))
        (loss.smoothed / batch.num_tgt_tokens).backward()  # type: ignore[no-untyped-call]
    if batch.src.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
