"""What decoding remembers: keys and values of the tokens written so far, and of the source.

Shapes: B sentences, K beams, N = B * K rows, L layers, H key heads, M longest target, S source, D head_dim.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class KeyValue(NamedTuple):
    """Keys and values of one layer, both (batch, H, tokens, D)."""

    keys: Tensor
    values: Tensor


class LayerCache:
    """The past of one layer's self-attention: a view into the cache of all layers."""

    def __init__(self, past: Tensor, length: int) -> None:
        self.past, self.length = past, length  # (2, N, H, M, D)

    def extend(self, new: KeyValue) -> KeyValue:
        """Store the keys and values (N, H, 1, D) of one token; return those of all tokens so far."""
        end = self.length + 1
        self.past[0, :, :, self.length : end] = new.keys
        self.past[1, :, :, self.length : end] = new.values
        return KeyValue(self.past[0, :, :, :end], self.past[1, :, :, :end])


@dataclass
class DecoderCache:
    """The state of a beam search in the model: one object to extend, permute and thin out."""

    past: Tensor  # (L, 2, N, H, M, D): self-attention keys and values
    memories: list[KeyValue]  # one for each layer, (B, H, S, D): never repeated for the beams
    cross_bias: Tensor  # (B, 1, 1, S)
    beams: int
    length: int = 0

    def layer(self, index: int) -> LayerCache:
        """The part of the cache that layer `index` reads and writes."""
        return LayerCache(self.past[index], self.length)

    def reorder(self, beams: Tensor) -> None:
        """Let beam k of sentence b go on from the former beam beams[b, k]; beams (B, K)."""
        rows = (torch.arange(beams.size(0), device=beams.device).unsqueeze(1) * self.beams + beams).flatten()
        written = self.past[..., : self.length, :]
        written.copy_(written.index_select(2, rows))

    def keep(self, sentences: Tensor) -> None:
        """Let only these sentences (B',) stay."""
        rows = (sentences.unsqueeze(1) * self.beams + torch.arange(self.beams, device=sentences.device)).flatten()
        self.past = self.past.index_select(2, rows)
        self.memories = [KeyValue(k.index_select(0, sentences), v.index_select(0, sentences)) for k, v in self.memories]
        self.cross_bias = self.cross_bias.index_select(0, sentences)
