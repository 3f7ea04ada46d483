"""What decoding remembers: keys and values of the tokens written so far, and of the source.

The tokens that the beams of a sentence write are the nodes of a tree. A node stays in the column where it was written;
`ancestry` tells which nodes lie on the way to each beam. So beams change places without moving a key, and what beams
have in common is kept once.

Shapes: B sentences, K beams, L layers, H key heads, N columns, S source, D head_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

_ROOM = 64  # columns, at least, when some are made: to make them copies the cache, to have them costs little


class KeyValue(NamedTuple):
    """Keys and values of one layer, both (batch, H, tokens, D)."""

    keys: Tensor
    values: Tensor


class Past(Protocol):
    """The keys and values that a layer's self-attention looks at."""

    bias: Tensor  # (B, 1, K, N)

    def extend(self, new: KeyValue) -> KeyValue:
        """Take in those of new tokens (B, H, K, D); return all (B, H, N, D)."""
        ...


class LayerCache:
    """The past of one layer's self-attention: a view into the cache of all layers."""

    def __init__(self, past: Tensor, bias: Tensor, used: int) -> None:
        self.past, self.used = past, used  # (2, B, H, N, D)
        self.bias = bias  # (B, 1, K, columns up to the new token's)

    def extend(self, new: KeyValue) -> KeyValue:
        """Store the keys and values (B, H, K, D) of one token of each beam; return those of all columns so far."""
        end = self.bias.size(-1)
        self.past[0, :, :, self.used : end] = new.keys
        self.past[1, :, :, self.used : end] = new.values
        return KeyValue(self.past[0, :, :, :end], self.past[1, :, :, :end])


@dataclass
class DecoderCache:
    """The state of a search in the model: one object to extend, permute, thin out and join to another."""

    past: list[Tensor]  # one for each layer, (2, B, H, N, D): self-attention keys and values
    ancestry: Tensor  # (B, 1, K, N): 0 where a beam descends from a node, -inf elsewhere
    memories: list[KeyValue]  # one for each layer, (B, H, S, D): never repeated for the beams
    cross_bias: Tensor  # (B, 1, 1, S)
    positions: Tensor  # (B, 1): tokens that each sentence has written
    turned: bool  # the memories' keys lie as (B, H, D, S), which is faster to multiply by several beams on a CPU
    used: int = 0  # columns
    longest: int = 0  # the highest position

    @classmethod
    def empty(cls, memories: list[KeyValue], cross_bias: Tensor, *, beams: int, heads: int, head_dim: int) -> Self:
        """Before the first token. The memories are laid out anew, or each step would do it to multiply them."""
        turned = beams > 1 and cross_bias.device.type == "cpu"
        memories = [_each(torch.Tensor.contiguous, memory, turned=turned) for memory in memories]
        batch = cross_bias.size(0)
        past = [cross_bias.new_empty(2, batch, heads, 0, head_dim) for _ in memories]
        positions = torch.zeros(batch, 1, dtype=torch.long, device=cross_bias.device)
        return cls(past, cross_bias.new_empty(batch, 1, beams, 0), memories, cross_bias, positions, turned)

    def begin_step(self) -> None:
        """Give each beam a column for its next token, which it sees and no other beam does."""
        beams = self.ancestry.size(2)
        if self.used + beams > self.ancestry.size(-1):
            self._tidy(torch.arange(self.ancestry.size(0), device=self.ancestry.device))
        itself = torch.full((beams, beams), -torch.inf, dtype=self.ancestry.dtype, device=self.ancestry.device)
        self.ancestry[..., self.used : self.used + beams] = itself.fill_diagonal_(0)

    def layer(self, index: int) -> LayerCache:
        """The part of the cache that layer `index` reads and writes in this step."""
        return LayerCache(self.past[index], self.ancestry[..., : self.used + self.ancestry.size(2)], self.used)

    def end_step(self) -> None:
        """Count the tokens that were written."""
        self.used += self.ancestry.size(2)
        self.longest += 1
        self.positions = self.positions + 1

    def reorder(self, beams: Tensor) -> None:
        """Let beam k of sentence b go on from the former beam beams[b, k]; beams (B, K)."""
        seen = self.ancestry[:, 0, :, : self.used]  # (B, K, used)
        seen.copy_(seen.gather(1, beams.unsqueeze(-1).expand_as(seen)))

    def keep(self, sentences: Tensor) -> None:
        """Let only these sentences (B',) stay, and of them only what a beam goes back to."""
        self.positions = self.positions.index_select(0, sentences)
        self.longest = int(self.positions.max()) if len(sentences) else 0
        self.cross_bias = self.cross_bias.index_select(0, sentences)
        width = int((self.cross_bias == 0).sum(-1).max()) if len(sentences) else 0
        self.cross_bias = self.cross_bias[..., :width]
        shorter = [KeyValue(*(part[:, :, :width] for part in memory)) for memory in self.memories]
        self.memories = [
            _each(lambda part: part.index_select(0, sentences), memory, turned=self.turned) for memory in shorter
        ]
        self._tidy(sentences)

    def join(self, other: "DecoderCache") -> None:
        """Take in the sentences of another cache of the same model and beams, behind those that are here."""
        columns, source = max(self.used, other.used), max(self.cross_bias.size(-1), other.cross_bias.size(-1))
        both = (self, other)
        self.past = [
            torch.cat(
                [_padded(past[..., : one.used, :], -2, columns) for past, one in zip(pasts, both, strict=True)], 1
            )
            for pasts in zip(self.past, other.past, strict=True)
        ]
        bias = [_padded(one.ancestry[..., : one.used], -1, columns, -torch.inf) for one in both]
        cross = [_padded(one.cross_bias, -1, source, -torch.inf) for one in both]
        self.ancestry, self.cross_bias = torch.cat(bias), torch.cat(cross)
        self.memories = [
            _each(lambda *parts: torch.cat(parts), *pair, turned=self.turned)
            for pair in zip(self._memories(source), other._memories(source), strict=True)
        ]
        self.positions = torch.cat([self.positions, other.positions])
        self.used, self.longest = columns, max(self.longest, other.longest)

    def _memories(self, source: int) -> list[KeyValue]:
        """With room for longer sources."""
        return [KeyValue(*(_padded(part, 2, source) for part in memory)) for memory in self.memories]

    def _tidy(self, sentences: Tensor) -> None:
        """Of these sentences keep the nodes that a beam descends from, and make columns for the steps to come."""
        ancestry = self.ancestry[..., : self.used].index_select(0, sentences)  # (B', 1, K, used)
        alive = (ancestry == 0).any(2).squeeze(1)  # (B', used)
        width = int(alive.sum(-1).max()) if alive.numel() else 0
        order = alive.int().argsort(dim=-1, descending=True, stable=True)[:, :width]  # as they were written
        room = max(_ROOM, 4 * ancestry.size(2), width // 4)
        ancestry = ancestry.gather(3, order[:, None, None].expand(-1, -1, ancestry.size(2), -1))
        self.ancestry = _padded(ancestry, -1, width + room, -torch.inf)
        self.past = [_columns(past, sentences, order, room=room) for past in self.past]
        self.used = width


def _each(change: Callable[..., Tensor], *all_of: KeyValue, turned: bool) -> KeyValue:
    """What `change` makes of the keys, as they lie, and of the values."""
    keys, values = ([kv[kind] for kv in all_of] for kind in (0, 1))
    return KeyValue(change(*(part.mT for part in keys)).mT if turned else change(*keys), change(*values))


def _columns(past: Tensor, sentences: Tensor, columns: Tensor, *, room: int) -> Tensor:
    """The given columns (B', N') of sentences (B',) of past (2, B, H, N, D), and room for more behind them."""
    two, _, heads, held, head_dim = past.shape
    rows, width = columns.shape
    new = past.new_empty(two, rows, heads, width + room, head_dim)
    if not width:
        return new
    head = sentences.unsqueeze(1) * heads + torch.arange(heads, device=past.device)  # (B', H)
    places = ((head * held).unsqueeze(2) + columns.unsqueeze(1)).flatten()  # (B' * H * N',)
    for kept, part in zip(new, past, strict=True):
        # Along the first dimension rows of D are copied by several threads.
        kept[:, :, :width] = part.reshape(-1, head_dim).index_select(0, places).view(rows, heads, width, head_dim)
    return new


def _padded(x: Tensor, dim: int, size: int, value: float = 0.0) -> Tensor:
    """x with a dimension grown to a size."""
    behind = x.dim() - 1 - dim % x.dim()  # dimensions after it
    return F.pad(x, [0, 0] * behind + [0, size - x.size(dim)], value=value)
