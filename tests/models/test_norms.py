"""Norms against their formulas and torch's own."""

import pytest
import torch
from small_models import randomised
from torch import nn

from pytorch_dl.models.norms import NORMS, LayerNorm, RMSNorm, make_norm


@pytest.mark.usefixtures("float64")
def test_rmsnorm_is_its_formula() -> None:
    norm, x = randomised(RMSNorm(7)), torch.randn(3, 2, 7)
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    assert torch.allclose(norm(x), expected, rtol=1e-13, atol=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_that_of_torch(bias: bool) -> None:
    norm, x = randomised(LayerNorm(7, bias=bias)), torch.randn(3, 2, 7)
    oracle = nn.LayerNorm(7, bias=bias)
    oracle.load_state_dict(norm.state_dict())
    assert torch.allclose(norm(x), oracle(x), rtol=1e-13, atol=1e-15)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", list(NORMS))
@pytest.mark.parametrize("bias", [True, False])
def test_each_norm_by_its_name(name: str, bias: bool) -> None:
    norm = randomised(make_norm(name, 6, bias=bias))
    x = torch.randn(4, 6, requires_grad=True)
    out = norm(x)
    assert out.shape == x.shape
    assert torch.allclose(norm(100 * x), out, rtol=1e-4, atol=1e-4)  # the scale of x is gone
    assert torch.autograd.gradcheck(norm, [x])
    assert ("bias" in dict(norm.named_parameters())) == (bias and name == "layernorm")


@pytest.mark.parametrize("name", list(NORMS))
def test_half_precision_stays_half_precision(name: str) -> None:
    norm, x = make_norm(name, 8, bias=True), torch.randn(3, 8)
    out = norm(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), norm(x), atol=0.05)


def test_a_factory_can_be_passed_in() -> None:
    norm = make_norm(nn.BatchNorm1d, 5, bias=False)
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_features == 5


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^norm_type must be a callable or one of rmsnorm, layernorm, got 'rms'$"):
        make_norm("rms", 5, bias=False)
