"""A model in the terms of CTranslate2: which of its parts that engine has, and the weights in its layout.

CTranslate2 runs a fixed Transformer with many switches. What no switch can express is refused by name; what is
expressed is compared number by number at each export (see `parity`).
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_dl.errors import ConfigError
from pytorch_dl.models.attention import ATTENTION, MultiHeadAttention
from pytorch_dl.models.feed_forward import FeedForward
from pytorch_dl.models.norms import LayerNorm, RMSNorm
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.positions import LearnedPositions, RotaryPositions, SinusoidalPositions
from pytorch_dl.models.transformer_blocks import Residual, TransformerDecoderLayer, TransformerEncoderLayer

_FUNCTIONS: dict[Callable[[Tensor], Tensor], str] = {
    F.relu: "RELU",
    torch.relu: "RELU",
    F.gelu: "GELU",
    F.silu: "SWISH",
    torch.tanh: "Tanh",
    torch.sigmoid: "Sigmoid",
}
_MODULES: dict[type, str] = {nn.ReLU: "RELU", nn.SiLU: "SWISH", nn.Tanh: "Tanh", nn.Sigmoid: "Sigmoid"}
_RMS_NORMS, _LAYER_NORMS = (RMSNorm, nn.RMSNorm), (LayerNorm, nn.LayerNorm)
_POSITIONS = (RotaryPositions, SinusoidalPositions, LearnedPositions)


def specification(model: OptimizedTransformer) -> Any:
    """The TransformerSpec of a model with its weights in float32, still without vocabularies.

    Raises ConfigError with everything that CTranslate2 cannot express.
    """
    from ctranslate2.specs import transformer_spec

    if reasons := obstacles(model):
        raise ConfigError(
            f"CTranslate2 cannot express this model: {'; '.join(reasons)}",
            fix="export with --to safetensors, or build the model from the parts of pytorch_dl",
        )
    sides = (
        (transformer_spec.TransformerEncoderSpec, model.encoder_layers, model.src_positions, model.encoder_norm),
        (transformer_spec.TransformerDecoderSpec, model.decoder_layers, model.tgt_positions, model.decoder_norm),
    )
    encoder, decoder = (_side(*side) for side in sides)
    encoder.embeddings[0].weight = _array(model.src_embedding.weight)
    decoder.embeddings.weight = _array(model.tgt_embedding.weight)
    _set_linear(decoder.projection, model.output.weight, model.output.bias)
    spec = transformer_spec.TransformerSpec(encoder, decoder)
    spec.config.layer_norm_epsilon = next(_epsilon(norm) for norm in _norms(model))
    return spec


def obstacles(model: OptimizedTransformer) -> list[str]:
    """What of a model CTranslate2 has no switch for, one line each; none for any model that the config can express."""
    foreign = [*dict.fromkeys(_foreign(model))]
    return foreign or [*_differing(model)]


def _foreign(model: OptimizedTransformer) -> Iterator[str]:
    """Parts that are not this project's own, whose function nobody knows."""
    expected: list[tuple[nn.Module, type]] = [(layer, TransformerEncoderLayer) for layer in model.encoder_layers]
    expected += [(layer, TransformerDecoderLayer) for layer in model.decoder_layers]
    for layer, kind in expected:
        if type(layer) is kind:
            yield from _foreign_parts(layer)
        else:
            yield f"the layer {_name(layer)} is not a {kind.__name__}"
    for positions in (model.src_positions, model.tgt_positions):
        if type(positions) not in _POSITIONS:
            yield f"the positions {_name(positions)} are none of rope, sinusoidal and learned"
    for norm in (model.encoder_norm, model.decoder_norm):
        if not isinstance(norm, nn.Identity) and type(norm) not in (*_RMS_NORMS, *_LAYER_NORMS):
            yield f"the norm {_name(norm)} is neither RMSNorm nor LayerNorm"
    for embedding in (model.src_embedding, model.tgt_embedding):
        if type(embedding) is not nn.Embedding:
            yield f"{_name(embedding)} stands in the place of a torch.nn.Embedding"
    if type(model.output) is not nn.Linear:
        yield f"{_name(model.output)} stands in the place of a torch.nn.Linear"


def _foreign_parts(layer: nn.Module) -> Iterator[str]:
    for part in layer.modules():
        if isinstance(part, Residual) and type(part.norm) not in (*_RMS_NORMS, *_LAYER_NORMS):
            yield f"the norm {_name(part.norm)} is neither RMSNorm nor LayerNorm"
        if isinstance(part, MultiHeadAttention) and part.attention not in ATTENTION.values():
            yield f"the attention {_name(part.attention)} is none of {', '.join(ATTENTION)}"
        if isinstance(part, FeedForward) and _activation(part.activation) is None:
            yield f"the activation {_name(part.activation)} is none of ReLU, GELU, SiLU, tanh and sigmoid"
    for name, part in layer.named_modules():
        if name.endswith("_proj") and type(part) is not nn.Linear:
            yield f"{_name(part)} stands in the place of the torch.nn.Linear {name}"
    for name, part in layer.named_children():
        kind = {
            "feed_forward": FeedForward,
            "self_attention": MultiHeadAttention,
            "cross_attention": MultiHeadAttention,
        }
        if type(part) is not kind.get(name, Residual):
            yield f"{_name(part)} stands in the place of {name}"


def _differing(model: OptimizedTransformer) -> Iterator[str]:
    """Settings that CTranslate2 has once for all layers (of a side), but the model more than once."""
    norms = [*_norms(model)]
    if len({type(norm) in _RMS_NORMS for norm in norms}) > 1:
        yield "some norms are RMSNorm and some LayerNorm"
    if len(epsilons := {_epsilon(norm) for norm in norms}) > 1:
        yield f"the norms have different eps: {', '.join(f'{eps:g}' for eps in sorted(epsilons))}"
    for name, layers, last in (
        ("encoder", model.encoder_layers, model.encoder_norm),
        ("decoder", model.decoder_layers, model.decoder_norm),
    ):
        parts = [part for layer in layers for part in layer.modules()]
        attention = [part for part in parts if isinstance(part, MultiHeadAttention)]
        feed_forward = [part for part in parts if isinstance(part, FeedForward)]
        residuals = [part for part in parts if isinstance(part, Residual)]
        if len({part.heads for part in attention}) > 1:
            yield f"the layers of the {name} have different heads"
        if len({(part.gated, _activation(part.activation)) for part in feed_forward}) > 1:
            yield f"the layers of the {name} have different activations"
        if len(orders := {part.norm_first for part in residuals}) > 1:
            yield f"the {name} normalises both before and after sublayers"
        if orders == {False} and not isinstance(last, nn.Identity):
            yield f"the {name} has a norm behind its last layer, which has normalised already"


def _side(make: Callable[..., Any], layers: Any, positions: nn.Module, last: nn.Module) -> Any:
    """The specification of the encoder or decoder, with all but its embeddings."""
    first = layers[0]
    heads, ff, norm = first.self_attention.heads, first.feed_forward, first.self_residual.norm
    rotation: dict[str, Any] = {}
    if isinstance(positions, RotaryPositions):
        rotation = {"rotary_dim": heads.dim, "rotary_interleave": False, "rotary_base": positions.base}
    side = make(
        len(layers),
        heads.query,
        pre_norm=first.self_residual.norm_first,
        no_final_norm=isinstance(last, nn.Identity),
        activation=_number(ff.activation),
        ffn_glu=ff.gated,
        rms_norm=type(norm) in _RMS_NORMS,
        num_heads_kv=None if heads.key == heads.query else heads.key,
        **rotation,
    )
    if isinstance(positions, SinusoidalPositions | LearnedPositions):
        table = positions.table if isinstance(positions, SinusoidalPositions) else positions.weight
        side.position_encodings.encodings = _array(table)
    if not isinstance(last, nn.Identity):
        _set_norm(side.layer_norm, last)
    for target, layer in zip(side.layer, layers, strict=True):
        _set_layer(target, layer)
    return side


def _set_layer(spec: Any, layer: Any) -> None:
    own, ff = layer.self_attention, layer.feed_forward
    _set_norm(spec.self_attention.layer_norm, layer.self_residual.norm)
    _set_linear(spec.self_attention.linear[0], own.qkv_proj.weight, own.qkv_proj.bias)
    _set_linear(spec.self_attention.linear[1], own.out_proj.weight, own.out_proj.bias)
    if isinstance(layer, TransformerDecoderLayer):
        cross = layer.cross_attention
        _set_norm(spec.attention.layer_norm, layer.cross_residual.norm)
        for target, part in zip(spec.attention.linear, (cross.q_proj, cross.kv_proj, cross.out_proj), strict=True):
            _set_linear(target, part.weight, part.bias)
    _set_norm(spec.ffn.layer_norm, layer.ff_residual.norm)
    parts = (spec.ffn.linear_0, spec.ffn.linear_0_noact) if ff.gated else (spec.ffn.linear_0,)  # gate, value
    biases = [None] * len(parts) if ff.in_proj.bias is None else ff.in_proj.bias.chunk(len(parts))
    for target, weight, bias in zip(parts, ff.in_proj.weight.chunk(len(parts)), biases, strict=True):
        _set_linear(target, weight, bias)
    _set_linear(spec.ffn.linear_1, ff.out_proj.weight, ff.out_proj.bias)


def _set_linear(spec: Any, weight: Tensor, bias: Tensor | None) -> None:
    spec.weight = _array(weight)
    if bias is not None:
        spec.bias = _array(bias)


def _set_norm(spec: Any, norm: Any) -> None:
    width = norm.weight.shape if norm.weight is not None else norm.normalized_shape
    spec.gamma = np.ones(width, dtype=np.float32) if norm.weight is None else _array(norm.weight)
    if type(norm) in _LAYER_NORMS:
        spec.beta = np.zeros(width, dtype=np.float32) if norm.bias is None else _array(norm.bias)


def _array(tensor: Tensor) -> Any:
    """A copy: quantization changes arrays in place."""
    return np.array(tensor.detach().float().cpu().numpy(), order="C", copy=True)


def _norms(model: OptimizedTransformer) -> Iterator[nn.Module]:
    return (part for part in model.modules() if type(part) in (*_RMS_NORMS, *_LAYER_NORMS))


def _epsilon(norm: Any) -> float:
    return float(torch.finfo(torch.float32).eps if norm.eps is None else norm.eps)


def _activation(activation: Any) -> str | None:
    """CTranslate2's name of an activation, if it has it."""
    if isinstance(activation, functools.partial) and activation.func is F.gelu and not activation.args:
        return _gelu(**activation.keywords)
    if isinstance(activation, nn.GELU):
        return _gelu(activation.approximate)
    if type(activation) in _MODULES:
        return _MODULES[type(activation)]
    return next((name for function, name in _FUNCTIONS.items() if function is activation), None)


def _gelu(approximate: str = "none") -> str:
    return "GELUTanh" if approximate == "tanh" else "GELU"


def _number(activation: Any) -> Any:
    from ctranslate2.specs import common_spec

    return common_spec.Activation[_activation(activation) or ""]


def _name(part: Any) -> str:
    kind = part if isinstance(part, type) or hasattr(part, "__name__") else type(part)
    return str(getattr(kind, "__qualname__", kind))
