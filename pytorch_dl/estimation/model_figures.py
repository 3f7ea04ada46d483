"""What follows from a model's shape alone: its parameters by part, the FLOPs of a token, memory by formula.

Shapes: B rows, S source, T target, V vocabulary, d d_model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pytorch_dl.config import Config
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.models.feed_forward import FeedForward
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.training.flops import BACKWARD, FORWARD, Matrices
from pytorch_dl.training.live_memory import weight_bytes
from pytorch_dl.training.loss import CHUNK_ROWS
from pytorch_dl.training.step_memory import Memory

SHARED = {"all": "embeddings and output, shared", "decoder": "target embedding and output, shared"}
PARTS = {
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "feed_forward": "feed-forward",
    "self_residual": "norms",
    "cross_residual": "norms",
    "ff_residual": "norms",
}


@dataclass(frozen=True)
class Flops:
    """Of matrix products, for each real token of both sides in the mean of an epoch; and of the whole training."""

    forward_per_token: float
    backward_per_token: float
    training: float


def parameters_by_part(model: OptimizedTransformer, *, tied: str) -> dict[str, int]:
    """Numbers in the weights; shared ones counted once."""
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        found[_part_of(name, tied)] += parameter.numel()
    return dict(found)


def _part_of(name: str, tied: str) -> str:
    first, *rest = name.split(".")
    side = first.partition("_")[0]
    if first in ("encoder_layers", "decoder_layers"):
        return f"{side} {PARTS.get(rest[1], 'layers, other parts')}"
    if first in ("encoder_norm", "decoder_norm"):
        return f"{side} norms"
    if first == "src_embedding":
        return SHARED["all"] if tied == "all" else "source embedding"
    if first == "tgt_embedding":
        return SHARED["decoder"] if tied == "decoder" else "target embedding"
    return {"output": "output", "src_positions": "source positions", "tgt_positions": "target positions"}.get(
        first, "other parts"
    )


def flops(model: OptimizedTransformer, loader: BatchLoader, *, tokens: int) -> Flops:
    """Those of the first epoch's pairs, spread over their tokens; `tokens` are those of the whole training."""
    lengths = loader.planner.lengths.take(loader.plan(0).pairs)
    forward = Matrices.of(model).forward_flops(lengths.src, lengths.tgt)
    a_token = forward / int(lengths.src.sum() + lengths.tgt.sum())
    return Flops(FORWARD * a_token, BACKWARD * a_token, (FORWARD + BACKWARD) * a_token * tokens)


def memory_by_formula(model: OptimizedTransformer, config: Config, loader: BatchLoader, *, number_bytes: int) -> Memory:
    """Weights, gradients and optimizer exactly; activations roughly, of layers that are not compiled.

    `number_bytes` are those of a number in the products: 4 of fp32, 2 of bf16 and fp16. The model may have no memory.
    """
    weights, name = weight_bytes(model), config.optimizer.name
    optimizer = weights * (bool(config.optimizer.beta1) if name == "sgd" else 2)
    average = weights * bool(config.training.ema_decay)
    activations = max(activation_bytes(model, shape, number_bytes=number_bytes) for shape in largest_shapes(loader))
    # When the last layers' activations are needed no longer, the gradients are there: their sum is not reached.
    peak = weights + optimizer + average + max(weights, activations)
    if config.training.gradient_accumulation_steps > 1:
        peak = 2 * weights + optimizer + average + activations
    return Memory(weights, weights, optimizer, average, activations, peak)


def largest_shapes(loader: BatchLoader) -> Sequence[tuple[int, int, int]]:
    """(B, S, T) of the batches of the first epoch that take most memory."""
    batches = [next(loader.batches(0))] if loader.has_one_shape else loader.largest(0)
    return [(batch.src.size(0), batch.src.size(1), batch.tgt_in.size(1)) for batch in batches]


def activation_bytes(model: OptimizedTransformer, shape: tuple[int, int, int], *, number_bytes: int) -> int:
    """What the backward pass needs of the forward one and what the loss computes with, counted tensor by tensor."""
    rows, src, tgt = shape
    heads = model.d_model // model.head_dim
    vocabulary, width = model.output.out_features, model.d_model
    source, target = rows * src, rows * tgt
    attended = rows * heads * (2 * number_bytes + 4)  # scores, weights in fp32 and as they multiply
    layers = []
    for layer in model.encoder_layers:
        layers.append(source * _layer_bytes(model, layer, number_bytes, attentions=1) + attended * src * src)
    for layer in model.decoder_layers:
        memory = source * 2 * model.n_kv_heads * model.head_dim * number_bytes
        own = target * _layer_bytes(model, layer, number_bytes, attentions=2)
        layers.append(own + memory + attended * tgt * (tgt + src))
    kept = sum(layers)
    if model.use_checkpointing:
        kept = max(layers) + 4 * width * (len(model.encoder_layers) * source + len(model.decoder_layers) * target)
    chunk = min(target, CHUNK_ROWS.get(model.output.weight.device.type, CHUNK_ROWS["cpu"])) * vocabulary
    loss = chunk * number_bytes + 4 * (width * vocabulary + target * width)  # and the gradients that are made with it
    return int(kept + loss)


def _layer_bytes(model: OptimizedTransformer, layer: torch.nn.Module, number_bytes: int, *, attentions: int) -> int:
    """Of a position: the stream before and behind each sublayer in fp32, what the products are given and give."""
    width, own = model.d_model, model.n_kv_heads * model.head_dim
    inner = sum(
        part.in_proj.out_features + 2 * part.out_proj.in_features
        for part in layer.modules()
        if isinstance(part, FeedForward)
    )
    streams = (attentions + 1) * (2 * 4 * width + number_bytes * width)
    products = width + 2 * own + width + own + width + (attentions - 1) * 2 * width + inner + width
    return streams + products * number_bytes
