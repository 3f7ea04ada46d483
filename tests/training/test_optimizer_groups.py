"""What an optimizer counts in its groups: saved where it changes, refused where it cannot be."""

import math
from typing import Any

import pytest
import torch

from pytorch_dl.errors import CheckpointError, ConfigError
from pytorch_dl.training.optimizer_groups import OptimizerGroups


class Counting(torch.optim.SGD):
    """One that is not torch's own; what it counts, the test does."""


def made(**entries: Any) -> Counting:
    """With two groups."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    return Counting([{"params": [parameter], **entries} for parameter in parameters], lr=0.5)


def names(groups: OptimizerGroups) -> dict[str, Any]:
    return {name: tensor.item() for name, tensor in groups.changed().items()}


def test_what_changes_is_saved_and_comes_back() -> None:
    optimizer = made(k=0, mean=0.0, is_on=False, betas=(0.9, 0.5), shift=torch.zeros(3))
    groups = OptimizerGroups(optimizer)
    assert names(groups) == {}
    first, second = optimizer.param_groups
    first.update(k=2**62 + 1, mean=0.1 + 0.2, new=7)
    second.update(is_on=True, lr=0.25)
    saved = groups.changed()
    expected = {"#group0/k": 2**62 + 1, "#group0/mean": 0.1 + 0.2, "#group0/new": 7}
    assert names(groups) == {**expected, "#group1/is_on": True, "#group1/lr": 0.25}
    other = made(k=0, mean=0.0, is_on=False, betas=(0.9, 0.5), shift=torch.zeros(3))
    other.load_state_dict({"state": {}, "param_groups": OptimizerGroups(other).restored(saved, where="here")})
    for mine, theirs in zip(optimizer.param_groups, other.param_groups, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {"params", "shift"}:
            assert (type(mine[name]), mine[name]) == (type(theirs[name]), theirs[name])


def test_what_a_later_configuration_says_is_left() -> None:
    optimizer = made(k=0)
    groups = OptimizerGroups(optimizer, scheduled=True)
    optimizer.param_groups[0].update(k=3, lr=0.1)
    saved = groups.changed()
    assert saved.keys() == {"#group0/k"}, "the schedule has changed the learning rate"
    other = made(k=0, weight_decay=0.7)
    other.param_groups[0]["lr"] = 0.3
    restored = OptimizerGroups(other, scheduled=True).restored(saved, where="here")
    assert [(group["k"], group["weight_decay"], group["lr"]) for group in restored] == [(3, 0.7, 0.3), (0, 0.7, 0.5)]


def test_going_back_forgets_what_was_counted_since() -> None:
    optimizer = made(k=0)
    groups = OptimizerGroups(optimizer)
    optimizer.param_groups[0].update(k=3, later=1)
    assert [set(group) & {"later"} for group in groups.restored({}, where="here")] == [set(), set()]
    assert groups.restored({}, where="here")[0]["k"] == 0


def test_torchs_own_have_settings_only() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    groups = OptimizerGroups(optimizer)
    optimizer.param_groups[0].update(lr=0.1, betas=(0.8, 0.9))
    assert groups.changed() == {}
    (restored,) = groups.restored({}, where="here")
    assert (restored["lr"], restored["betas"]) == (0.1, (0.8, 0.9))
    for name, value in (("amsgrad", True), ("lr", 0.3), ("k", 3)):
        with pytest.raises(CheckpointError, match=f"^here: optimizer state of unknown '#group0/{name}'. Fix: "):
            groups.restored({f"#group0/{name}": torch.tensor(value)}, where="here")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.ones(1), "tensor([1.])"),
        ((0.9, 0.6), "(0.9, 0.6)"),
        ([1], "[1]"),
        (2**63, str(2**63)),
        (math.nan, "nan"),
        (math.inf, "inf"),
        ("on", "on"),
    ],
)
@pytest.mark.parametrize("before", [None, torch.zeros(1), (0.9, 0.5), [0]], ids=["none", "tensor", "tuple", "list"])
def test_what_cannot_be_saved_is_refused(value: object, told: str, before: object) -> None:
    optimizer = made(d=before)
    groups = OptimizerGroups(optimizer)
    optimizer.param_groups[1]["d"] = value
    with pytest.raises(ConfigError) as caught:
        groups.changed()
    assert str(caught.value) == (
        f"Counting changes 'd' of its groups to {told}, no finite number: it could not be resumed. "
        "Fix: use another optimizer, or train without a checkpoint_dir."
    )


@pytest.mark.parametrize("value", [[0], torch.zeros(2), {"a": torch.zeros(2)}], ids=["list", "tensor", "of tensors"])
def test_a_change_in_place_is_seen(value: Any) -> None:
    optimizer = made(d=value)
    groups = OptimizerGroups(optimizer)
    value.update(b=1) if isinstance(value, dict) else value.__setitem__(0, 3)
    with pytest.raises(ConfigError, match="Counting changes 'd' of its groups to "):
        groups.changed()


def test_what_cannot_be_copied_is_left_alone() -> None:
    groups = OptimizerGroups(made(others=(one for one in ()), nothing=math.nan))
    assert groups.changed() == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("#group2/k", torch.tensor(3), "of unknown '#group2/k'"),
        ("#group00/k", torch.tensor(3), "of unknown '#group00/k'"),
        ("#group-1/k", torch.tensor(3), "of unknown '#group-1/k'"),
        ("#group0/", torch.tensor(3), "of unknown '#group0/'"),
        ("#group0/params", torch.tensor(3), "of unknown '#group0/params'"),
        ("#group0/k", torch.tensor([3]), "'#group0/k' is no number"),
        ("#group0/k", torch.tensor(3, dtype=torch.int32), "'#group0/k' is no number"),
        ("#group0/k", torch.tensor(True), "'#group0/k' is no number"),
        ("#group0/k", torch.tensor(math.nan, dtype=torch.float64), "'#group0/k' is no number"),
        ("#group0/is_on", torch.tensor(1), "'#group0/is_on' is no number"),
        ("#group0/betas", torch.tensor(1), "'#group0/betas' is no number"),
    ],
)
def test_hostile_numbers_are_refused(key: str, value: torch.Tensor, message: str) -> None:
    groups = OptimizerGroups(made(k=0, is_on=False, betas=(0.9, 0.5)))
    with pytest.raises(CheckpointError, match=f"^here: optimizer state {message}"):
        groups.restored({key: value}, where="here")
