"""Why a step gave numbers that are not finite: its batches once more, one by one, with an eye on every tensor.

failed-step-00000012/   model.safetensors  batch.safetensors  failure.json  manifest.json

What is found is kept beside the checkpoints, so that the step can be looked at again, without the text and elsewhere.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor, nn

from pytorch_dl.dataset.batching import IGNORED_LABEL, Batch
from pytorch_dl.errors import CheckpointError, NonFiniteError, UserError, visible
from pytorch_dl.files import damage, new_folder, read_json, write_json
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.loaders import refuse_misfit
from pytorch_dl.training.peers import Peers
from pytorch_dl.training.sharding import is_divided
from pytorch_dl.training.step import Passes

BATCH, FAILURE = "batch.safetensors", "failure.json"
NAME = re.compile(r"failed-step-[0-9]{8}")
SHOWN_PAIRS = 8
WEIGHTS = "the weights"
_RESTORE = "restore it from a backup; or delete it: an earlier failure is looked at then, where there is one"


@dataclass(frozen=True)
class Failure:
    """The first tensor that was not finite, on the way from the weights over a batch's loss to its gradients."""

    step: int
    slot: int  # the batch's place in the step's list
    tensor: str
    pairs: list[int]

    def __str__(self) -> str:
        return f"first in {visible(self.tensor)}" + (f", on pairs {_listed(self.pairs)}" if self.pairs else "")


class Watch:
    """While entered, notes the first module that is given or gives numbers that are not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: str | None = None
        self.rows: list[int] = []  # of the batch, where the tensor has its rows

    def __enter__(self) -> Self:
        self._hooks: list[Any] = []
        for name, module in self.model.named_modules():
            if name:
                self._hooks.append(module.register_forward_pre_hook(self._before(f"the input of {name}")))
                self._hooks.append(module.register_forward_hook(self._after(f"the output of {name}")))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, name: str) -> Any:
        return lambda module, given: self._look(name, given[0] if given else None)

    def _after(self, name: str) -> Any:
        return lambda module, given, made: self._look(name, made)

    def _look(self, name: str, tensor: object) -> None:
        if self.found or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return
        faulty = ~tensor.isfinite()
        if faulty.any():
            self.found = name
            self.rows = faulty.flatten(1).any(1).nonzero().flatten().tolist() if tensor.dim() > 2 else []


def diagnosed(passes: Passes, batches: Mapping[int, Batch], *, step: int) -> Failure | None:
    """Compute a step's batches again, from weights that are still those before it; None where all is finite now."""
    tokens = sum(batch.num_tgt_tokens for batch in batches.values())
    for slot, batch in sorted(batches.items()):
        if (found := _not_finite(passes, batch, step=step, slot=slot, tokens=tokens)) is not None:
            tensor, rows = found
            ids = batch.pair_ids[rows] if rows else batch.pair_ids
            return Failure(step, slot, tensor, [] if tensor.startswith(WEIGHTS) else _pairs(ids))
    return None


def explained(
    error: NonFiniteError,
    passes: Passes,
    batches: Mapping[int, Batch],
    *,
    step: int,
    peers: Peers,
    folder: Path | None,
) -> NonFiniteError:
    """The error of a step with what is found in this process's batches; the first that finds something keeps it.

    A divided model is not computed again: processes with other numbers of batches would wait for each other.
    """
    pairs = _listed(_pairs(*(batch.pair_ids for batch in batches.values()))) or "no pairs"
    if is_divided(passes.model):
        return NonFiniteError(f"{error.what}; of the step's pairs, rank {peers.rank} had {pairs}", fix=error.fix)
    failure = diagnosed(passes, batches, step=step)
    finders = torch.zeros(peers.size, device=peers.device)
    finders[peers.rank] = failure is not None
    ranks = peers.add_up(finders).nonzero().flatten().tolist()
    fix = error.fix
    if failure:
        where = str(failure)
        if folder and ranks[0] == peers.rank and not failure.tensor.startswith(WEIGHTS):
            fix = f"{fix}; {_kept_or_not(failure, folder, passes.model, batches[failure.slot])}"
    elif ranks:
        where = f"in a batch of rank {ranks[0]}, which tells more"
    else:
        where = f"on pairs {pairs}"
        fix = "computed again, the same batches give finite numbers: see whether the machine's memory is sound"
    return NonFiniteError(f"{error.what}: {where}", fix=fix)


def _kept_or_not(failure: Failure, folder: Path, model: nn.Module, batch: Batch) -> str:
    """Keep a failure and say where; what prevents it must not hide the failure itself."""
    try:
        return f"its weights and batch are in {keep(failure, folder, model, batch)}"
    except Exception as error:
        return f"its weights and batch could not be kept ({error.what if isinstance(error, UserError) else error})"


def keep(failure: Failure, folder: Path, model: nn.Module, batch: Batch) -> Path:
    """Write down a failure with the weights and the batch that it comes from."""
    path = folder / f"failed-{ckpt.name_of(failure.step)}"
    with new_folder(path) as temporary:
        save_file(ckpt.model_weights(model), temporary / ckpt.MODEL)
        tensors = {name: value.contiguous() for name, value in vars(batch).items() if isinstance(value, Tensor)}
        save_file(tensors, temporary / BATCH)
        counts = {name: value for name, value in vars(batch).items() if not isinstance(value, Tensor)}
        write_json(temporary / FAILURE, {**asdict(failure), "counts": counts})
    return path


def kept(folder: Path, model: OptimizedTransformer) -> tuple[Failure, Batch] | None:
    """The newest failure that was kept, with its weights in the model; None where there is none."""
    path = max((path for path in folder.glob("failed-*") if NAME.fullmatch(path.name)), default=None)
    if path is None:
        return None
    if (reason := damage(path)) is not None:
        raise CheckpointError(reason, where=str(path), fix=_RESTORE)
    ckpt.load_weights(model, ckpt.read_tensors(path / ckpt.MODEL), where=str(path))
    try:
        values = read_json(path / FAILURE)
        parts: dict[str, Any] = {**ckpt.read_tensors(path / BATCH), **values.pop("counts")}
        batch = Batch(**parts)
        failure = TypeAdapter(Failure).validate_python(values)
        _refuse_what_no_batch_is(batch)
        refuse_misfit(batch, model, where=BATCH)
        _refuse_another(failure, batch, name=path.name)
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"is no failure that training wrote ({error})", where=str(path), fix=_RESTORE) from None
    return failure, batch


def _refuse_what_no_batch_is(batch: Batch) -> None:
    """Raise ValueError unless the parts have the shapes and kinds that belong together, and positions and segments."""
    rows, pairs = (*batch.pair_ids.shape, 0, 0)[:2]
    for width, names in (
        (None, ("pair_ids",)),
        (batch.src.shape[-1:], ("src", "src_segments", "src_positions")),
        (batch.tgt_in.shape[-1:], ("tgt_in", "labels", "tgt_segments", "tgt_positions")),
    ):
        for name in names:
            tensor: Tensor = getattr(batch, name)
            shape = (rows, *(width or (pairs,)))
            if tuple(tensor.shape) != shape or len(shape) != 2 or not tensor.numel():
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, expected {shape} and not empty")
            if tensor.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"{name} is of {tensor.dtype}, expected int64")
    for name, most in (
        ("src_segments", pairs),
        ("tgt_segments", pairs),
        ("src_positions", None),
        ("tgt_positions", None),
    ):
        lowest, highest = (int(bound) for bound in getattr(batch, name).aminmax())
        if lowest < 0 or (most is not None and highest > most):
            raise ValueError(f"{name} go from {lowest} to {highest}")
    if (batch.labels[batch.tgt_segments == 0] != IGNORED_LABEL).any():
        raise ValueError("labels tell of tokens where there are none")
    for name in ("num_src_tokens", "num_tgt_tokens"):
        if not isinstance(count := getattr(batch, name), int) or not 0 < count <= batch.num_positions:
            raise ValueError(f"{name} is {count!r}")


def _refuse_another(failure: Failure, batch: Batch, *, name: str) -> None:
    """Raise ValueError unless it is the failure of this batch, in a folder with the name of its step."""
    if name != f"failed-{ckpt.name_of(failure.step)}" or failure.slot < 0:
        raise ValueError(f"it is of step {failure.step}, batch {failure.slot}")
    if other := set(failure.pairs) - set(_pairs(batch.pair_ids)):
        raise ValueError(f"pair {min(other)} is not in its batch")


def _pairs(*ids: Tensor) -> list[int]:
    """The ids of all pairs."""
    return sorted({int(pair) for some in ids for pair in some.flatten().tolist() if pair >= 0})


def _listed(pairs: list[int]) -> str:
    more = len(pairs) - SHOWN_PAIRS
    return ", ".join(map(str, pairs[:SHOWN_PAIRS])) + (f" and {more} more" if more > 0 else "")


def _not_finite(passes: Passes, batch: Batch, *, step: int, slot: int, tokens: int) -> tuple[str, list[int]] | None:
    """The name of the first tensor that is not finite, and the rows that it shows in."""
    model = passes.model
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"{WEIGHTS} {name}", []
    with _by_hand(passes), Watch(model) as watch:
        totals = passes(batch, step=step, slot=slot, tokens=tokens)
        gradients = [(name, parameter.grad) for name, parameter in model.named_parameters()]
    if watch.found:
        return watch.found, watch.rows
    if not totals.isfinite().all():
        return "the loss", []
    for name, gradient in reversed(gradients):  # as they are computed
        if gradient is not None and not gradient.isfinite().all():
            return f"the gradient of {name}", []
    return None


@contextmanager
def _by_hand(passes: Passes) -> Iterator[None]:
    """Without what was compiled or recorded, where nobody can look in; no gradients before and after."""
    recorded, passes.recorded = passes.recorded, None
    passes.model.zero_grad(set_to_none=True)
    try:
        with torch.compiler.set_stance("force_eager") if passes.model.is_compiled else nullcontext():
            yield
    finally:
        passes.model.zero_grad(set_to_none=True)
        passes.recorded = recorded
