"""Position schemes against the formulas of their papers."""

import math

import pytest
import torch

from pytorch_dl.models.positions import (
    POSITIONS,
    LearnedPositions,
    RotaryPositions,
    Rotation,
    SinusoidalPositions,
    rotate,
)


def rotated(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    _, rotation = RotaryPositions(x.size(-1), 64)(x, positions)
    assert rotation is not None
    return rotate(x, rotation)


@pytest.mark.usefixtures("float64")
def test_rotation_is_multiplication_by_a_complex_number() -> None:
    x, positions = torch.randn(2, 3, 4, 6), torch.tensor([[0, 1, 2, 3], [5, 0, 1, 40]])
    frequencies = 10000.0 ** (-torch.arange(3) / 3)
    turn = torch.polar(torch.tensor(1.0), positions[:, None, :, None] * frequencies)
    expected = torch.complex(x[..., :3], x[..., 3:]) * turn
    assert torch.allclose(rotated(x, positions), torch.cat((expected.real, expected.imag), dim=-1), rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_rotated_scores_depend_on_the_distance_only() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(query: int, key: int) -> float:
        return float((rotated(q, torch.tensor([[query]])) * rotated(k, torch.tensor([[key]]))).sum())

    assert score(7, 4) == pytest.approx(score(33, 30), rel=1e-12)
    assert score(7, 4) != pytest.approx(score(7, 5), rel=1e-3)
    assert score(9, 9) == pytest.approx(float((q * k).sum()), rel=1e-12)


def test_a_rotation_follows_the_type_of_what_it_rotates() -> None:
    rotation = Rotation(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    x = torch.randn(1, 1, 1, 4, dtype=torch.bfloat16)
    assert torch.equal(rotate(x, rotation), x)
    assert rotate(x, rotation).dtype == torch.bfloat16


@pytest.mark.usefixtures("float64")
def test_sinusoids_are_those_of_the_paper() -> None:
    x, rotation = SinusoidalPositions(6, 9)(torch.zeros(1, 9, 6), torch.arange(9).unsqueeze(0))
    assert rotation is None
    for position in range(9):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            assert x[0, position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-13)
            assert x[0, position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-13)


def test_learned_rows_are_added_and_learned() -> None:
    scheme, x, positions = LearnedPositions(4, 6), torch.randn(1, 3, 4), torch.tensor([[0, 1, 0]])
    out, rotation = scheme(x, positions)
    assert rotation is None
    assert torch.equal(out, x + scheme.weight[[0, 1, 0]])
    out.sum().backward()
    assert scheme.weight.grad is not None
    assert scheme.weight.grad[:, 0].tolist() == [2, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("name", list(POSITIONS))
def test_each_scheme_tells_positions_apart_and_reads_those_it_is_given(name: str) -> None:
    scheme, x = POSITIONS[name](8, 4, 10), torch.randn(1, 1, 8).expand(1, 3, 8)
    out, rotation = scheme(x, torch.tensor([[0, 9, 0]]))
    places = out[0] if rotation is None else torch.cat(rotation, dim=-1)[0, 0]
    assert torch.equal(places[0], places[2])
    assert not torch.allclose(places[0], places[1])


@pytest.mark.parametrize("name", list(POSITIONS))
def test_tables_are_not_saved_but_learned_rows_are(name: str) -> None:
    assert list(POSITIONS[name](8, 4, 10).state_dict()) == (["weight"] if name == "learned" else [])


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^rotary positions need an even head width, got d_model / n_heads = 5$"):
        RotaryPositions(5, 8)
    with pytest.raises(ValueError, match=r"^sinusoidal positions need an even d_model, got 15$"):
        SinusoidalPositions(15, 8)
