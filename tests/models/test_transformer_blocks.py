"""The layers against those of torch.nn with copied weights: values and every gradient."""

import itertools
from typing import Any

import pytest
import torch
from small_models import assert_same, randomised
from torch import Tensor, nn
from torch_oracle import assert_same_gradients, copy_weights, inputs_of_two, of_decoder_layer, of_encoder_layer

from pytorch_dl.models.dropout import Dropout, token_keys
from pytorch_dl.models.feed_forward import GATED, PLAIN
from pytorch_dl.models.masks import additive, segment_mask
from pytorch_dl.models.norms import NORMS
from pytorch_dl.models.transformer_blocks import Residual, TransformerDecoderLayer, TransformerEncoderLayer

D, HEADS, FF = 12, 3, 20
SRC = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])  # segments
TGT = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
CAUSAL = ~torch.ones(4, 4, dtype=torch.bool).tril()  # torch.nn's masks are True where attention is forbidden


@pytest.fixture(params=[True, False], ids=["pre-norm", "post-norm"])
def norm_first(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=list(PLAIN))
def activation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sdpa", "plain"])
def attention(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def compared(out: Tensor, expected: Tensor, segments: Tensor) -> None:
    """Compare where there is no padding, and send a random gradient back through both."""
    real = segments > 0
    assert_same(out[real], expected[real], relative=1e-10)
    weight = torch.randn_like(out[real])
    for result in (out, expected):
        (result[real] * weight).sum().backward()


@pytest.mark.usefixtures("float64")
def test_the_encoder_layer_is_that_of_torch(norm_first: bool, activation: str, attention: str) -> None:
    layer = TransformerEncoderLayer(
        *(D, HEADS, FF),
        dropout=0.0,
        activation=activation,
        norm_type="layernorm",
        norm_first=norm_first,
        bias=True,
        attention=attention,
    )
    oracle = nn.TransformerEncoderLayer(
        *(D, HEADS, FF), dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    twins = list(of_encoder_layer(randomised(layer), oracle))
    copy_weights(twins, layer, oracle)
    (x,), (y,) = inputs_of_two(torch.randn(3, 6, D))
    bias = additive(segment_mask(SRC, SRC), torch.float64)
    compared(layer(x, bias=bias), oracle(y, src_key_padding_mask=SRC == 0), SRC)
    assert x.grad is not None
    assert y.grad is not None
    assert_same(x.grad, y.grad, relative=1e-10)
    assert_same_gradients(twins, relative=1e-10)


@pytest.mark.usefixtures("float64")
def test_the_decoder_layer_is_that_of_torch(norm_first: bool, activation: str, attention: str) -> None:
    layer = TransformerDecoderLayer(
        *(D, HEADS, FF),
        dropout=0.0,
        activation=activation,
        norm_type="layernorm",
        norm_first=norm_first,
        bias=True,
        attention=attention,
    )
    oracle = nn.TransformerDecoderLayer(
        *(D, HEADS, FF), dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    twins = list(of_decoder_layer(randomised(layer), oracle))
    copy_weights(twins, layer, oracle)
    ours, theirs = inputs_of_two(torch.randn(3, 4, D), torch.randn(3, 6, D))
    out = layer(
        *ours,
        self_bias=additive(segment_mask(TGT, TGT, causal=True), torch.float64),
        cross_bias=additive(segment_mask(TGT, SRC), torch.float64),
    )
    masks = {"tgt_key_padding_mask": TGT == 0, "memory_key_padding_mask": SRC == 0}
    compared(out, oracle(*theirs, tgt_mask=CAUSAL, **masks), TGT)
    for name, x, y in zip(("x", "memory"), ours, theirs, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        assert_same(x.grad, y.grad, relative=1e-10, what=name)
    assert_same_gradients(twins, relative=1e-10)


def test_a_layer_is_not_that_of_torch_when_the_norm_is_elsewhere() -> None:
    layer = randomised(
        TransformerEncoderLayer(D, HEADS, FF, dropout=0.0, activation="relu", bias=True, norm_first=True)
    )
    other = TransformerEncoderLayer(D, HEADS, FF, dropout=0.0, activation="relu", bias=True, norm_first=False)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, D)
    assert not torch.allclose(layer(x), other(x), atol=0.1)


@pytest.mark.parametrize("norm_type", list(NORMS))
@pytest.mark.parametrize("activation", [*PLAIN, *GATED])
@pytest.mark.parametrize("bias", [True, False])
def test_each_variant_reaches_every_parameter(norm_type: str, activation: str, bias: bool) -> None:
    options: dict[str, Any] = {"norm_type": norm_type, "activation": activation, "bias": bias, "dropout": 0.0}
    encoder, decoder = TransformerEncoderLayer(D, HEADS, **options), TransformerDecoderLayer(D, HEADS, **options)
    decoder(torch.randn(2, 4, D), encoder(torch.randn(2, 5, D))).square().sum().backward()
    for layer in (encoder, decoder):
        assert {("bias" in name) for name, _ in layer.named_parameters()} == ({True, False} if bias else {False})
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_a_residual_adds_then_normalises_or_normalises_then_adds() -> None:
    x = torch.randn(1, 2, 4)
    double = nn.Identity()
    double.forward = lambda y: 2 * y  # type: ignore[method-assign]
    none = Dropout(0.0, 4, site=1)
    assert torch.allclose(Residual(double, none, norm_first=True)(x, lambda y: y + 1, keys=None), 3 * x + 1)
    assert torch.allclose(Residual(double, none, norm_first=False)(x, lambda y: y + 1, keys=None), 4 * x + 2)


def test_the_width_of_the_feed_forward_layer_is_4_d_model_when_left_out() -> None:
    layer = TransformerEncoderLayer(D, HEADS, activation="relu")
    assert layer.feed_forward.in_proj.out_features == 4 * D


def test_each_branch_of_a_layer_drops_other_features() -> None:
    layer = TransformerDecoderLayer(D, HEADS, dropout=0.5)
    residuals = (layer.self_residual, layer.cross_residual, layer.ff_residual)
    lanes = [residual.dropout.lanes for residual in residuals] + [layer.feed_forward.dropout.lanes[:, :D]]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(lanes, 2))
    keys = token_keys(1, torch.arange(6).view(2, 3), torch.arange(3).expand(2, 3))
    x, memory = torch.randn(2, 3, D), torch.randn(2, 4, D)
    assert torch.equal(layer(x, memory, keys=keys), layer(x, memory, keys=keys))
    assert not torch.equal(layer(x, memory, keys=keys), layer(x, memory, keys=keys + 1))
    assert not torch.equal(layer(x, memory), layer(x, memory))


def test_names_that_are_unknown_are_told() -> None:
    with pytest.raises(ValueError, match="'prelu'"):
        TransformerEncoderLayer(D, HEADS, activation="prelu")
    with pytest.raises(ValueError, match="'batchnorm'"):
        TransformerDecoderLayer(D, HEADS, norm_type="batchnorm")
