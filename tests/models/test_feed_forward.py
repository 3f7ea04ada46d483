"""The feed-forward layer against its formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from small_models import assert_same, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.models.feed_forward import GATED, PLAIN, FeedForward, gated_width

FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "swiglu": lambda x: x / (1 + (-x).exp()),
    "geglu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
}


def layer(activation: str | Callable[[Tensor], Tensor], *, d_ff: int = 24, bias: bool = True) -> FeedForward:
    made = randomised(FeedForward(8, d_ff, activation=activation, dropout=0.0, bias=bias))
    assert isinstance(made, FeedForward)
    return made


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", [*PLAIN, *GATED])
def test_each_activation_is_its_formula(name: str, bias: bool) -> None:
    ff, x = layer(name, bias=bias), torch.randn(2, 3, 8)
    h = F.linear(x, ff.in_proj.weight, ff.in_proj.bias)
    if name in GATED:
        width = gated_width(24)
        h = FORMULAS[name](h[..., :width]) * h[..., width:]
    else:
        h = FORMULAS[name](h)
    assert_same(ff(x), F.linear(h, ff.out_proj.weight, ff.out_proj.bias), relative=1e-13)
    assert (ff.in_proj.bias is not None) == bias


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", list(GATED))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    assert torch.autograd.gradcheck(layer(name), [torch.randn(1, 2, 8, requires_grad=True)])


def test_a_callable_is_a_plain_activation() -> None:
    ff = layer(nn.Tanh())
    x = torch.randn(1, 2, 8)
    assert ff.in_proj.out_features == 24
    assert torch.equal(ff(x), ff.out_proj(ff.in_proj(x).tanh()))


@pytest.mark.parametrize("template", list(TEMPLATES))
@pytest.mark.parametrize("bias", [True, False])
def test_all_activations_have_as_many_parameters_within_1_percent(template: str, bias: bool) -> None:
    d_model = TEMPLATES[template]["model"].get("d_model", 512)
    with torch.device("meta"):
        sizes = {
            name: sum(
                p.numel()
                for p in FeedForward(d_model, 4 * d_model, activation=name, dropout=0.0, bias=bias).parameters()
            )
            for name in (*PLAIN, *GATED)
        }
    assert max(sizes.values()) <= 1.01 * min(sizes.values()), sizes
    assert min(sizes.values()) >= 8 * d_model**2


def test_a_gated_width_is_two_thirds_in_eights() -> None:
    assert [gated_width(d_ff) for d_ff in (1, 12, 24, 512, 2048)] == [8, 8, 16, 344, 1368]


def test_dropout_falls_on_the_inner_features_in_training_only() -> None:
    ff = FeedForward(8, 24, activation="relu", dropout=0.5, bias=False)
    seen: list[Tensor] = []
    ff.out_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, keys = torch.randn(1, 2, 8), torch.tensor([[11, 12]])
    ff(x, keys=keys)
    ff.eval()(x, keys=keys)
    training, plain = seen
    kept = training != 0
    assert torch.equal(training[kept], 2 * plain[kept])
    assert 0 < kept.sum() < (plain != 0).sum()


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^activation must be .* relu, gelu, swiglu, geglu, got 'swish'$"):
        layer("swish")
