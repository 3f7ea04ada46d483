"""The FLOPs of a training step: matrix products on real tokens only, forward and backward.

2mnk for each product: linear layers, attention, projection onto the vocabulary. Attention counts every token of its own
sentence, in the decoder later ones too: a causal mask hides them but spares no kernel used here their products. What
checkpointing computes again is not counted.

Shapes: B rows, T tokens, P pairs in the fullest row.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from pytorch_dl.dataset.batching import Batch
from pytorch_dl.models.optimized_transformer import OptimizedTransformer

FORWARD, BACKWARD = 1, 2  # each product of the forward pass needs two more for its gradients


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
        return (FORWARD + BACKWARD) * self.forward_flops(src, tgt)

    def forward_flops(self, src: Any, tgt: Any) -> int:
        """FLOPs of a forward pass over pairs of so many tokens, their added marks included: arrays of one shape."""
        seen = self.encoders * int((src * src).sum()) + self.decoders * int((tgt * tgt + tgt * src).sum())
        multiplied = int(src.sum()) * self.per_source + int(tgt.sum()) * self.per_target
        return 2 * (multiplied + 2 * self.width * seen)  # scores, and weights times values

    @classmethod
    def of(cls, model: OptimizedTransformer) -> "Matrices":
        """Of this project's model."""
        encoders: Any = model.encoder_layers
        decoders: Any = model.decoder_layers
        memory = numbers_in(layer.cross_attention.kv_proj for layer in decoders)
        return cls.of_layers(encoders, decoders, memory=memory, output=model.output, width=model.d_model)

    @classmethod
    def of_layers(cls, encoders: Any, decoders: Any, *, memory: int, output: nn.Module, width: int) -> "Matrices":
        """Of an encoder-decoder; `memory` is the share of the decoder's numbers that source tokens meet."""
        per_target = numbers_in([*decoders, output]) - memory
        return cls(numbers_in(encoders) + memory, per_target, len(encoders), len(decoders), width)


def numbers_in(modules: Iterable[nn.Module]) -> int:
    """Numbers in all matrices of some modules."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.ndim == 2)


def sentence_lengths(batch: Batch, segments: Tensor) -> Tensor:
    """Segments (B, T) of one side -> tokens of each pair (B, P), 0 where a row holds fewer."""
    pairs = batch.pair_ids.size(1)
    return nn.functional.one_hot(segments.long(), pairs + 1).sum(1)[:, 1:]
