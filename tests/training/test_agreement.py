"""Weights by which processes are compared: whatever differs in them shows, wherever it lies."""

from collections.abc import Callable

import pytest
import torch

from pytorch_dl.training import agreement
from pytorch_dl.training.agreement import _digest

PART = 64  # bytes


@pytest.fixture(autouse=True)
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_BYTES_AT_ONCE", PART)


def weight() -> torch.Tensor:
    """Of several parts, the last one not whole."""
    return torch.randn(7 * PART // 4, generator=torch.Generator().manual_seed(1))


def change_the_last_byte(values: torch.Tensor) -> None:
    values.view(torch.uint8)[-1] ^= 1


def exchange_parts(values: torch.Tensor) -> None:
    size = PART // values.element_size()
    values[: 2 * size] = torch.cat((values[size : 2 * size], values[:size]))


def exchange_numbers_of_parts(values: torch.Tensor) -> None:
    values[[0, PART // values.element_size()]] = values[[PART // values.element_size(), 0]]


@pytest.mark.parametrize("change", [change_the_last_byte, exchange_parts, exchange_numbers_of_parts])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_change_shows(dtype: torch.dtype, change: Callable[[torch.Tensor], None]) -> None:
    values = weight().to(dtype)
    before = _digest(values)
    assert _digest(values.clone()) == before
    change(values)
    assert _digest(values) != before


def test_the_size_of_the_parts_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = weight().view(2, -1).t()  # whose numbers lie otherwise in memory
    in_parts = _digest(values)
    monkeypatch.setattr(agreement, "_BYTES_AT_ONCE", 1 << 30)
    assert _digest(values) == in_parts


def test_a_weight_of_one_number() -> None:
    assert _digest(torch.tensor(1.0)) != _digest(torch.tensor(2.0))
