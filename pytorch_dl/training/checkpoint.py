"""Checkpoints: folders of safetensors and JSON, written whole or not at all, and read without running anything in them.

checkpoints/step-00001200/   model.safetensors  optimizer.safetensors  [average.safetensors]  state.json  manifest.json
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.files import damage, new_folder, read_json, write_json
from pytorch_dl.plain_files import strangeness
from pytorch_dl.training.optimizer_groups import GROUP, OptimizerGroups, as_tensor
from pytorch_dl.training.sharding import as_part, gathered, held, is_finite, own_rows
from pytorch_dl.training.train_state import RESTORE, TrainState

MODEL, OPTIMIZER, AVERAGE, STATE = "model.safetensors", "optimizer.safetensors", "average.safetensors", "state.json"
NAME = re.compile(r"step-[0-9]{8}")
_NUMBER = "#number"  # ends the name of optimizer state that is a plain number
_LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # optimizer state of a parameter's own shape and kind
_OTHER_CONFIGURATION = "use the configuration it was trained with"
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_STEPS = (torch.float32, torch.float64)  # what optimizers count in
_NEEDED = {"Adam": _ADAM, "AdamW": _ADAM}  # optimizer state that a parameter has all or nothing of


class Part(NamedTuple):
    """A file of tensors in a checkpoint."""

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] | None = None


def save_checkpoint(folder: Path, step: int, parts: Iterable[Part], *, state: Mapping[str, Any]) -> Path:
    """Write everything that training goes on from, as folder/step-XXXXXXXX."""
    path = folder / name_of(step)
    with new_folder(path) as temporary:
        for part in parts:
            save_file(part.tensors, temporary / part.name, metadata=part.metadata)
            del part  # before the next one is made
        write_json(temporary / STATE, state)
    return path


def contents(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None,
    groups: OptimizerGroups | None = None,
) -> Iterator[Part]:
    """The files of a checkpoint that hold tensors; all processes must ask for those of a divided model."""
    yield Part(MODEL, gathered(model_weights(model)))
    kind = {"optimizer": type(optimizer).__name__}
    counted = groups.changed() if groups else {}
    yield Part(OPTIMIZER, gathered({**_optimizer_tensors(model, optimizer), **counted}), kind)
    if average is not None:
        yield Part(AVERAGE, gathered({name: tensor.contiguous() for name, tensor in average.items()}))


def name_of(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, whole or not, newest first."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), reverse=True)


def refuse_existing(folder: Path) -> None:
    """Raise when a folder that a new training would write to holds checkpoints."""
    if checkpoints(folder):
        raise CheckpointError(
            "the folder already holds checkpoints",
            where=str(folder),
            fix="call resume() before train(), or choose another folder",
        )


def newest_valid(folder: Path, report: Callable[[str], None], *, among: Sequence[Path] | None = None) -> Path | None:
    """The newest whole checkpoint; None when there is none at all, an error when there are but none is whole.

    `among` tells, newest first, which of the folder's are wanted.
    """
    found = checkpoints(folder) if among is None else among
    for path in found:
        reason = damage(path)
        if reason is None:
            return path
        report(f"skipping checkpoint {path.name}: {reason}")
    if found:
        raise CheckpointError(
            f"none of the {len(found)} checkpoints is whole",
            where=str(folder),
            fix="restore one from a backup, or start again in another folder",
        )
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint."""
    try:
        state = read_json(path / STATE)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path / STATE), fix=RESTORE) from None
    if not isinstance(state, dict):
        raise CheckpointError("is not a JSON object", where=str(path / STATE), fix=RESTORE)
    return state


def read_train_state(path: Path) -> TrainState:
    """Where training was at a checkpoint, whose folder must have the name of its step."""
    state = TrainState.from_json(read_state(path), where=str(path))
    if path.name != name_of(state.step):
        raise CheckpointError(f"its state is of step {state.step}", where=str(path), fix="give it the name that it had")
    return state


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    if strange := strangeness(path):
        raise CheckpointError(f"not a readable safetensors file: it {strange}", where=str(path), fix=RESTORE)
    try:
        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"not a readable safetensors file: {error}", where=str(path), fix=RESTORE) from None


def count_numbers(path: Path) -> int:
    """The numbers in a file of weights, by its header; tied ones are stored once."""
    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def weights_of(folder: Path, step: int) -> dict[str, Tensor]:
    """The weights of a step's checkpoint that are meant for use: their moving average where there is one."""
    return _usable_weights(folder / name_of(step))


def averaged(model: nn.Module, paths: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of the weights of several checkpoints of a model."""
    mean: dict[str, Tensor] = {}
    for path in paths:
        weights = _usable_weights(path)
        require_fit(model, weights, where=str(path))
        for name, tensor in weights.items():
            _require_finite(name, tensor, where=str(path))
            mean[name] = mean[name] + tensor if name in mean else tensor.double()
    kinds = {name: tensor.dtype for name, tensor in _distinct(model)}
    return {name: (tensor / len(paths)).to(kinds[name]) for name, tensor in mean.items()}


def _usable_weights(path: Path) -> dict[str, Tensor]:
    reason = damage(path)
    if reason:
        raise CheckpointError(reason, where=str(path), fix="restore it from a backup")
    weights = read_tensors(path / MODEL)
    if (path / AVERAGE).exists():
        weights.update(read_tensors(path / AVERAGE))
    return weights


def model_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each tied one once."""
    return {name: tensor.detach().contiguous() for name, tensor in _distinct(model)}


def require_fit(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Raise unless these are the names, shapes and kinds of the model's tensors, which may be without content."""
    _require_like(dict(_distinct(model)), weights, where=where)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Copy tensors into a model of exactly these names and shapes."""
    load_tensors(dict(_distinct(model)), weights, where=where)


@torch.no_grad()
def load_tensors(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, where: str) -> None:
    """Copy `found` into the tensors of the same names, all or none."""
    _require_like(own, found, where=where)
    for name, tensor in found.items():
        _require_finite(name, tensor, where=where)
    for name, tensor in own.items():
        held(tensor).copy_(own_rows(tensor, found[name]))


def _require_like(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, where: str) -> None:
    for name in sorted(own.keys() ^ found.keys()):
        problem = "is missing from the file" if name in own else "is not part of this model"
        raise CheckpointError(f"tensor {name!r} {problem}", where=where, fix=_OTHER_CONFIGURATION)
    for name, tensor in own.items():
        _require_kind(name, found[name], like=tensor, where=where)


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, groups: OptimizerGroups | None = None
) -> None:
    """Restore the optimizer's tensors, which are named PARAMETER/KEY in the file, and what it counts in its groups."""
    tensors, where, kind = read_tensors(path), str(path), type(optimizer).__name__
    with safe_open(path, "pt") as file:
        saved_kind = (file.metadata() or {}).get("optimizer")
    if saved_kind != kind:
        fix = "set optimizer.name back to what it was, or begin another run with these weights by --weights-from"
        raise CheckpointError(f"was written by the optimizer {saved_kind}, not {kind}", where=where, fix=fix)
    counted = {key: tensors.pop(key) for key in list(tensors) if key.startswith(GROUP)}
    param_groups = (groups or OptimizerGroups(optimizer)).restored(counted, where=where)
    parameters = dict(model.named_parameters())
    states: dict[str, dict[str, Tensor | float]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition("/")
        if name not in parameters:
            what = f"optimizer state of unknown parameter {name!r}"
            raise CheckpointError(what, where=where, fix=_OTHER_CONFIGURATION)
        if (like := _expected_state(part, tensor, parameters[name])) is not None:
            _require_kind(key, tensor, like=like, where=where)
        _require_finite(key, tensor, where=where)
        if tensor.shape == parameters[name].shape:
            tensor = own_rows(parameters[name], tensor)
        number = part.endswith(_NUMBER) and not tensor.ndim
        states.setdefault(name, {})[part.removesuffix(_NUMBER)] = tensor.item() if number else tensor
    lacking = [f"{name}/{part}" for name in states for part in _NEEDED.get(kind, ()) if part not in states[name]]
    if lacking:
        raise CheckpointError(f"optimizer state {lacking[0]!r} is missing", where=where, fix=RESTORE)
    names = {held(parameter): name for name, parameter in parameters.items()}
    order = [names.get(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    by_index = {index: states[name] for index, name in enumerate(order) if name in states}
    try:
        optimizer.load_state_dict({"state": by_index, "param_groups": param_groups})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"holds no state of {kind} ({type(error).__name__}: {error})"
        raise CheckpointError(what, where=where, fix=_OTHER_CONFIGURATION) from error


def _expected_state(part: str, tensor: Tensor, parameter: Tensor) -> Tensor | None:
    """What a known part of a parameter's optimizer state must be like; None for one of another optimizer than ours."""
    if part == "step":
        return torch.zeros((), dtype=tensor.dtype if tensor.dtype in _STEPS else None)
    return parameter if part in _LIKE_PARAMETER else None


def _require_kind(name: str, tensor: Tensor, *, like: Tensor, where: str) -> None:
    got, expected = (f"shape {tuple(one.shape)}" for one in (tensor, like))
    if got == expected:
        got, expected = (str(one.dtype).removeprefix("torch.") for one in (tensor, like))
    if got != expected:
        what = f"tensor {name!r} has {got}, the model expects {expected.removeprefix('shape ')}"
        raise CheckpointError(what, where=where, fix=_OTHER_CONFIGURATION)


def _require_finite(name: str, tensor: Tensor, *, where: str) -> None:
    if not is_finite(tensor):
        raise CheckpointError(f"tensor {name!r} holds numbers that are not finite", where=where, fix=RESTORE)


def _distinct(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for part, value in optimizer.state.get(held(parameter), {}).items():
            key = f"{name}/{part}"
            if isinstance(value, Tensor):
                tensors[key] = as_part(parameter, value.contiguous())
            elif (number := as_tensor(value)) is not None:
                tensors[key + _NUMBER] = number
            elif value is not None:  # None: such as a momentum that is switched off
                raise ConfigError(
                    f"{type(optimizer).__name__} keeps {part!r} of {name} as {type(value).__name__}, neither tensor "
                    "nor number: it could not be resumed",
                    fix="use another optimizer, or train without a checkpoint_dir",
                )
    return tensors
