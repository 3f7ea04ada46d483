"""What an optimizer counts in its groups, beside the state of each parameter: numbers that it changes while training.

Schedule-free optimizers do, and those that find their own learning rate. What a group has had since training began is
the configuration's; what has changed crosses into a checkpoint, as tensors named #groupINDEX/NAME.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.training.train_state import RESTORE

GROUP = "#group"  # begins the name of such a number in a file
_KEY = re.compile(rf"{GROUP}(0|[1-9][0-9]{{0,5}})/(.+)", re.DOTALL)
_NUMBERS = (torch.bool, torch.int64, torch.float64)


class OptimizerGroups:
    """The groups of an optimizer, and how they were when this was made.

    With `scheduled` the learning rate is a function of the step. torch's own optimizers have settings in their groups
    and nothing else: where one changes, it was set from outside, and will be again.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, scheduled: bool = False) -> None:
        self.optimizer = optimizer
        self._are_settings = type(optimizer).__module__.startswith("torch.")
        self._set_anew = ("params", "lr") if scheduled else ("params",)
        self._begun = {key: _copy(value) for key, value in self._entries().items()}

    def changed(self) -> dict[str, Tensor]:
        """The numbers that are no longer as they were."""
        return {
            key: self._saved(key, value)
            for key, value in self._entries().items()
            if key not in self._begun or not _is_same(value, self._begun[key])
        }

    def restored(self, found: Mapping[str, Tensor], *, where: str) -> list[dict[str, Any]]:
        """The groups of a state dict, as they were when a checkpoint was written that holds `found`."""
        groups: list[dict[str, Any]] = self.optimizer.state_dict()["param_groups"]
        restored = [{name: value for name, value in group.items() if self._is_left(name)} for group in groups]
        numbers = {key: self._read(key, tensor, where=where) for key, tensor in found.items()}
        for key, value in {**self._begun, **numbers}.items():
            index, name = _parsed(key)
            restored[index][name] = value
        return restored

    def _is_left(self, name: str) -> bool:
        """Whether a group's entry is as the configuration or the step has it."""
        return self._are_settings or name in self._set_anew

    def _entries(self) -> dict[str, Any]:
        return {
            f"{GROUP}{index}/{name}": value
            for index, group in enumerate(self.optimizer.param_groups)
            for name, value in group.items()
            if not self._is_left(name)
        }

    def _saved(self, key: str, value: object) -> Tensor:
        number = as_tensor(value)
        if number is None or not number.isfinite():
            raise ConfigError(
                f"{type(self.optimizer).__name__} changes {_parsed(key)[1]!r} of its groups to {str(value)[:60]}, no "
                "finite number: it could not be resumed",
                fix="use another optimizer, or train without a checkpoint_dir",
            )
        return number

    def _read(self, key: str, tensor: Tensor, *, where: str) -> float:
        index, name = _parsed(key)
        if not 0 <= index < len(self.optimizer.param_groups) or self._is_left(name):
            raise CheckpointError(f"optimizer state of unknown {key!r}", where=where, fix=RESTORE)
        number = tensor.item() if tensor.dtype in _NUMBERS and not tensor.ndim and tensor.isfinite() else None
        before = self._begun.get(key, number)
        if number is None or as_tensor(before) is None or isinstance(before, bool) != isinstance(number, bool):
            what = f"optimizer state {key!r} is no number like that of its group"
            raise CheckpointError(what, where=where, fix=RESTORE)
        return number


def as_tensor(value: object) -> Tensor | None:
    """A plain number, exactly; None where it is another thing, or too large."""
    if isinstance(value, bool):
        return torch.tensor(value)
    if isinstance(value, int):
        return torch.tensor(value, dtype=torch.int64) if -(2**63) <= value < 2**63 else None
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else None


def _parsed(key: str) -> tuple[int, str]:
    """Group and name; group -1 where it is no such key."""
    match = _KEY.fullmatch(key)
    return (int(match[1]), match[2]) if match else (-1, key)


def _copy(value: object) -> object:
    """Or itself, where it has none: such as a process group."""
    try:
        return copy.deepcopy(value)
    except (TypeError, RuntimeError, copy.Error):
        return value


def _is_same(value: object, before: object) -> bool:
    if isinstance(value, Tensor) and isinstance(before, Tensor):
        return torch.equal(value, before)
    try:
        return value is before or (type(value) is type(before) and bool(value == before))
    except (RuntimeError, ValueError):  # arrays in a list
        return False
