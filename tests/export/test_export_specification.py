"""What CTranslate2 can express comes out with the same numbers; what it cannot is refused, and says why."""

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export_models import ONE, TOKENIZERS, tiny
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.errors import ConfigError
from pytorch_dl.export.ctranslate2 import CTranslate2Engine, convert
from pytorch_dl.export.pairs import random_pairs
from pytorch_dl.export.parity import Parity, Reference, require_exact
from pytorch_dl.export.specification import obstacles
from pytorch_dl.models.attention import plain_attention
from pytorch_dl.models.norms import LayerNorm, RMSNorm
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.positions import RotaryPositions
from pytorch_dl.models.transformer_blocks import TransformerDecoderLayer, TransformerEncoderLayer

pytest.importorskip("ctranslate2")
SHARED = TOKENIZERS["shared"]


def exported(model: OptimizedTransformer, folder: Path) -> Parity:
    """What the export of a model comes to, in float32."""
    pairs = random_pairs(SHARED, max_seq_len=model.max_seq_len, why="test", count=6)
    convert(model, SHARED, folder)
    parity = Reference(model, SHARED, pairs).compare(CTranslate2Engine(folder, SHARED, compute_type="float32"))
    require_exact(parity, engine="CTranslate2")
    return parity


ACTIVATIONS = [
    *(F.relu, torch.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid),
    *(nn.ReLU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.Sigmoid()),
    functools.partial(F.gelu, approximate="tanh"),
]
OTHERS: dict[str, dict[str, Any]] = {
    "torch's RMSNorm": {"norm_type": nn.RMSNorm},
    "torch's LayerNorm": {"norm_type": nn.LayerNorm, "norm_first": False},
    "a norm without weights": {"norm_type": lambda d: nn.LayerNorm(d, elementwise_affine=False)},
    "another eps": {"norm_type": lambda d: LayerNorm(d, eps=0.1)},
    "another base": {"positions": lambda d, head_dim, longest: RotaryPositions(head_dim, longest, base=50.0)},
    "more heads": {"d_model": 24, "n_heads": 3},
    "an odd width": {"d_model": 18, "n_heads": 3, "d_ff": 7, "activation": "relu"},
}


@pytest.mark.parametrize(
    "activation", ACTIVATIONS, ids=lambda function: re.sub(r" (of type object )?at 0x\w+", "", str(function))
)
def test_activations_that_are_passed_in_are_exact(activation: Any, tmp_path: Path) -> None:
    model = tiny(SHARED, activation=activation)
    assert exported(model, tmp_path / "out").equal == 6


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_parts_of_torch_and_other_settings_are_exact(changes: dict[str, Any], tmp_path: Path) -> None:
    assert exported(tiny(SHARED, **changes), tmp_path / "out").equal == 6


def test_a_model_without_a_last_norm_is_exact(tmp_path: Path) -> None:
    model = tiny(SHARED)
    model.encoder_norm = model.decoder_norm = nn.Identity()
    assert exported(model, tmp_path / "out").equal == 6


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = tiny(SHARED)
    before = copy.deepcopy(model.state_dict())
    convert(model, SHARED, tmp_path / "out", quantization="int8")  # which changes arrays in place
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class MyEncoderLayer(TransformerEncoderLayer):
    pass


class MyDecoderLayer(TransformerDecoderLayer):
    pass


class MyNorm(RMSNorm):
    pass


class MyPositions(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, positions: Tensor) -> tuple[Tensor, None]:
        return x, None


class MyLinear(nn.Linear):
    pass


def my_attention(*inputs: Any) -> Tensor:
    return plain_attention(*inputs)


def my_activation(x: Tensor) -> Tensor:
    return F.relu(x) ** 2


OF_ONES_OWN: list[tuple[dict[str, Any], str]] = [
    ({"encoder_layer": MyEncoderLayer}, "the layer MyEncoderLayer is not a TransformerEncoderLayer"),
    ({"decoder_layer": MyDecoderLayer}, "the layer MyDecoderLayer is not a TransformerDecoderLayer"),
    ({"norm_type": MyNorm}, "the norm MyNorm is neither RMSNorm nor LayerNorm"),
    ({"positions": MyPositions}, "the positions MyPositions are none of rope, sinusoidal and learned"),
    ({"attention": my_attention}, "the attention my_attention is none of auto, sdpa, plain"),
    ({"activation": my_activation}, "the activation my_activation is none of ReLU, GELU, SiLU, tanh and sigmoid"),
    ({"activation": nn.Mish()}, "the activation Mish is none of ReLU, GELU, SiLU, tanh and sigmoid"),
]


@pytest.mark.parametrize(("changes", "reason"), OF_ONES_OWN, ids=[reason for _, reason in OF_ONES_OWN])
def test_parts_of_ones_own_are_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        convert(tiny(SHARED, **changes), SHARED, tmp_path / "out")
    assert f"CTranslate2 cannot express this model: {reason}. Fix: export with --to safetensors" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def _new_linear(model: Any) -> None:
    model.encoder_layers[1].feed_forward.in_proj = MyLinear(16, 2 * 48, bias=False)


def _new_block(model: Any) -> None:
    model.encoder_layers[1].feed_forward = nn.Identity()


def _new_embedding(model: Any) -> None:
    model.src_embedding = nn.EmbeddingBag(ONE.vocab_size, 16)


def _other_eps(model: Any) -> None:
    model.decoder_norm.eps = 1e-4


def _other_norm(model: Any) -> None:
    model.encoder_norm = LayerNorm(16)


def _other_heads(model: Any) -> None:
    attention = model.encoder_layers[1].self_attention
    attention.heads = attention.heads._replace(query=2, key=2, dim=8)


def _other_activation(model: Any) -> None:
    model.encoder_layers[1].feed_forward.activation = F.relu


def _other_order(model: Any) -> None:
    model.encoder_layers[1].ff_residual.norm_first = False


def _second_norm(model: Any) -> None:
    for layer in model.encoder_layers:
        layer.self_residual.norm_first = layer.ff_residual.norm_first = False


CHANGED: list[tuple[Callable[[Any], None], str]] = [
    (_new_linear, "MyLinear stands in the place of the torch.nn.Linear feed_forward.in_proj"),
    (_new_block, "Identity stands in the place of feed_forward"),
    (_new_embedding, "EmbeddingBag stands in the place of a torch.nn.Embedding"),
    (_other_eps, "the norms have different eps: 1e-06, 0.0001"),
    (_other_norm, "some norms are RMSNorm and some LayerNorm; the norms have different eps: 1e-06, 1e-05"),
    (_other_heads, "the layers of the encoder have different heads"),
    (_other_activation, "the layers of the encoder have different activations"),
    (_other_order, "the encoder normalises both before and after sublayers"),
    (_second_norm, "the encoder has a norm behind its last layer, which has normalised already"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGED, ids=[reason for _, reason in CHANGED])
def test_models_that_were_changed_by_hand_are_refused(change: Callable[[Any], None], reason: str) -> None:
    model = tiny(SHARED, num_encoder_layers=2)
    assert obstacles(model) == []
    change(model)
    assert "; ".join(obstacles(model)) == reason
