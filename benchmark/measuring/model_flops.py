"""The FLOPs of a training step of all models that are compared: matrix products on real tokens only, times three.

2mnk for each product; attention within a sentence, without regard to the causal mask, as roofline.py counts it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from benchmark.contenders.baseline import PlainTransformer
from benchmark.measuring.roofline import BACKWARD_TOO, sentence_lengths, step_flops
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer


class Matrices(NamedTuple):
    """What multiplies: numbers in the matrices that each token of a side meets, and the layers that attend."""

    per_source: int
    per_target: int
    encoders: int
    decoders: int
    width: int  # of all heads together


def model_flops(model: Any, batch: Batch) -> int | None:
    """FLOPs of a step of one of the models, None of one that is not known here; `batch` lies on the CPU."""
    if isinstance(model, OptimizedTransformer):
        return step_flops(model, batch)
    if isinstance(model, PlainTransformer):
        found = of_torch(model)
    elif type(model).__name__ == "MarianMTModel":
        found = of_marian(model)
    else:
        return None
    src, tgt = sentence_lengths(batch, batch.src_segments), sentence_lengths(batch, batch.tgt_segments)
    seen = found.encoders * int((src * src).sum()) + found.decoders * int((tgt * tgt + tgt * src).sum())
    multiplied = batch.num_src_tokens * found.per_source + batch.num_tgt_tokens * found.per_target
    return BACKWARD_TOO * 2 * (multiplied + 2 * found.width * seen)


def of_torch(model: PlainTransformer) -> Matrices:
    """Of torch.nn.Transformer, whose cross-attention has one matrix for queries, keys and values."""
    encoders: Any = model.transformer.encoder.layers
    decoders: Any = model.transformer.decoder.layers
    memory = sum(layer.multihead_attn.in_proj_weight.numel() for layer in decoders) * 2 // 3
    return _matrices(encoders, decoders, memory=memory, output=model.embedding, width=model.d_model)


def of_marian(model: Any) -> Matrices:
    """Of Hugging Face's Marian."""
    encoders, decoders = model.model.encoder.layers, model.model.decoder.layers
    memory = sum(
        part.weight.numel() for layer in decoders for part in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
    )
    return _matrices(encoders, decoders, memory=memory, output=model.lm_head, width=model.config.d_model)


def numbers_in(modules: Iterable[nn.Module]) -> int:
    """Numbers in all matrices of some modules."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)


def _matrices(encoders: Any, decoders: Any, *, memory: int, output: nn.Module, width: int) -> Matrices:
    """`memory` is the share of the decoder's numbers that source tokens meet."""
    per_target = numbers_in([*decoders, output]) - memory
    return Matrices(numbers_in(encoders) + memory, per_target, len(encoders), len(decoders), width)
