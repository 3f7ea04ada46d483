"""The FLOPs of a training step of all models that are compared: matrix products on real tokens only, times three.

2mnk for each product: linear layers, attention, projection onto the vocabulary. Attention counts every token of its own
sentence, in the decoder later ones too: a causal mask hides them but spares no kernel used here their products.

Shapes: B rows, T tokens, P pairs in the fullest row.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from benchmark.contenders.baseline import PlainTransformer
from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer

BACKWARD_TOO = 3  # each product of the forward pass needs two more for its gradients


class Matrices(NamedTuple):
    """What multiplies: numbers in the matrices that each token of a side meets, and the layers that attend."""

    per_source: int
    per_target: int
    encoders: int
    decoders: int
    width: int  # of all heads together

    def step_flops(self, batch: Batch) -> int:
        """FLOPs of a step; `batch` lies on the CPU."""
        src, tgt = sentence_lengths(batch, batch.src_segments), sentence_lengths(batch, batch.tgt_segments)
        seen = self.encoders * int((src * src).sum()) + self.decoders * int((tgt * tgt + tgt * src).sum())
        multiplied = batch.num_src_tokens * self.per_source + batch.num_tgt_tokens * self.per_target
        return BACKWARD_TOO * 2 * (multiplied + 2 * self.width * seen)  # scores, and weights times values


def step_flops(model: Any, batch: Batch) -> int:
    """FLOPs of a step of a model that is known here; `batch` lies on the CPU."""
    found = matrices_of(model)
    assert found, f"nobody counts the products of a {type(model).__name__}"
    return found.step_flops(batch)


def matrices_of(model: Any) -> Matrices | None:
    """Of one of the models; None of one that is not known here."""
    if isinstance(model, OptimizedTransformer):
        return of_ours(model)
    if isinstance(model, PlainTransformer):
        return of_torch(model)
    return of_marian(model) if type(model).__name__ == "MarianMTModel" else None


def of_ours(model: OptimizedTransformer) -> Matrices:
    """Of this project's model."""
    encoders: Any = model.encoder_layers
    decoders: Any = model.decoder_layers
    memory = numbers_in(layer.cross_attention.kv_proj for layer in decoders)
    return _matrices(encoders, decoders, memory=memory, output=model.output, width=model.d_model)


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


def sentence_lengths(batch: Batch, segments: Tensor) -> Tensor:
    """Segments (B, T) of one side -> tokens of each pair (B, P), 0 where a row holds fewer."""
    pairs = batch.pair_ids.size(1)
    return nn.functional.one_hot(segments.long(), pairs + 1).sum(1)[:, 1:]
