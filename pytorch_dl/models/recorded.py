"""Decoding steps recorded once as CUDA graphs, then replayed: the GPU gets the kernels of a step in one call.

A graph works on fixed addresses and shapes. So a cache moves into the buffers of a recording that is at least as large,
where what is not its own is masked; when its shape changes, it moves on. Sizes are rounded up, and few recordings serve
all searches.

Shapes: B sentences, K beams, L layers, H key heads, N columns, S source, D head_dim, d d_model.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pytorch_dl.models import cuda_graphs
from pytorch_dl.models.cuda_graphs import Work
from pytorch_dl.models.kv_cache import DecoderCache, KeyValue, Past

FEWEST_SENTENCES, FEWEST_COLUMNS, SHORTEST_SOURCE = 8, 128, 16  # larger ones are powers of two
MOST_RECORDINGS = 16  # each holds buffers as large as a cache

# tokens (B, K), positions (B, 1), past and memory of each layer, bias (B, 1, 1, S) -> hidden states (B, K, d)
Decoder = Callable[[Tensor, Tensor, Sequence[Past], Sequence[KeyValue], Tensor], Tensor]


class Size(NamedTuple):
    """What a recording has room for."""

    sentences: int
    beams: int
    columns: int
    source: int

    @classmethod
    def of(cls, cache: DecoderCache) -> "Size":
        """The size of the recording for a cache."""
        sentences, _, beams, columns = cache.ancestry.shape
        return cls(
            max(FEWEST_SENTENCES, _power_of_two(sentences)),
            beams,
            max(FEWEST_COLUMNS, _power_of_two(columns)),
            max(SHORTEST_SOURCE, _power_of_two(cache.cross_bias.size(-1))),
        )


class FixedPast:
    """The past of one layer with all its columns; the new ones are named by a tensor, which a graph can read."""

    def __init__(self, past: Tensor, bias: Tensor, columns: Tensor) -> None:
        self.past, self.bias, self.columns = past, bias, columns  # (2, B, H, N, D), (B, 1, K, N), (K,)

    def extend(self, new: KeyValue) -> KeyValue:
        """Write (B, H, K, D) into the new columns."""
        for part, added in zip(self.past, new, strict=True):
            part.index_copy_(2, self.columns, added)
        return KeyValue(self.past[0], self.past[1])


class Recording:
    """One step of decoding for caches up to a size, and the buffers that it reads and writes."""

    def __init__(self, decoder: Decoder, size: Size, like: DecoderCache, record: Callable[[Work], Work]) -> None:
        layers, (_, _, heads, _, dim) = len(like.past), like.past[0].shape
        key_heads = like.memories[0].keys.size(1)
        with torch.inference_mode(mode=False):  # buffers outlive the search that made them
            zeros = like.cross_bias.new_zeros
            self.past = zeros(layers, 2, size.sentences, heads, size.columns, dim)
            self.ancestry = zeros(size.sentences, 1, size.beams, size.columns)
            self.memories = zeros(layers, 2, size.sentences, key_heads, size.source, dim)
            self.cross_bias = zeros(size.sentences, 1, 1, size.source)
            self.tokens = zeros(size.sentences, size.beams, dtype=torch.long)
            self.positions = zeros(size.sentences, 1, dtype=torch.long)
            self.columns = torch.arange(size.beams, device=like.cross_bias.device)
        self.hidden: Tensor
        self._decoder = decoder
        self._guest: Callable[[], DecoderCache | None] = lambda: None
        self._place: list[Tensor] | None = None  # of the guest's past, as long as it is here
        with torch.no_grad():
            self._replay = record(self._step)

    def holds(self, cache: DecoderCache) -> bool:
        """Whether a cache is in these buffers, and has not changed its shape since it came."""
        return self._guest() is cache and cache.past is self._place

    def take_in(self, cache: DecoderCache) -> None:
        """Move a cache into the buffers; one that is still there moves out."""
        guest = self._guest()
        if guest is not None and guest is not cache and self.holds(guest):
            _move_out(guest)
        sentences, source = cache.ancestry.size(0), cache.cross_bias.size(-1)
        # What is masked is multiplied by 0, so it must be finite, and what nobody has written may be anything.
        self.past[:, :, :sentences, :, cache.used :] = 0
        for buffer, past in zip(self.past, cache.past, strict=True):
            buffer[:, :sentences, :, : cache.used] = past[..., : cache.used, :]
        self.memories[:, :, :sentences, :, source:] = 0
        for bias, given in ((self.ancestry, cache.ancestry), (self.cross_bias, cache.cross_bias)):
            width = given.size(-1)  # which may lie in the very buffer, as memories may
            bias[:sentences, ..., :width] = given
            bias[:sentences, ..., width:] = -torch.inf
        for buffers, memory in zip(self.memories, cache.memories, strict=True):
            for buffer, part in zip(buffers, memory, strict=True):
                buffer[:sentences, :, :source] = part
        cache.past, cache.ancestry = list(self.past[:, :, :sentences]), self.ancestry[:sentences]
        cache.memories = [KeyValue(*(part[:sentences, :, :source] for part in buffers)) for buffers in self.memories]
        cache.cross_bias = self.cross_bias[:sentences, ..., :source]
        self._guest, self._place = weakref.ref(cache), cache.past

    def replay(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """The last token of each beam (B, K) of the cache that is here -> hidden states (B, K, d)."""
        sentences, beams = tokens.shape
        self.tokens[:sentences] = tokens
        self.positions[:sentences] = cache.positions
        torch.arange(cache.used, cache.used + beams, out=self.columns)
        self._replay()
        return self.hidden[:sentences].clone()

    def _step(self) -> None:
        pasts = [FixedPast(past, self.ancestry, self.columns) for past in self.past]
        memories = [KeyValue(*parts) for parts in self.memories]
        self.hidden = self._decoder(self.tokens, self.positions, pasts, memories, self.cross_bias)


class Recordings:
    """The recordings of a decoder, those of the sizes that were asked for last. For one thread."""

    def __init__(self, decoder: Decoder, *, record: Callable[[Work], Work] | None = None) -> None:
        self._decoder, self._record = decoder, record or cuda_graphs.record
        self._kept: OrderedDict[Size, Recording] = OrderedDict()

    def step(self, tokens: Tensor, cache: DecoderCache) -> Tensor:
        """The last token of each beam (B, K) -> hidden states (B, K, d); the cache has made its columns for them."""
        recording = next((one for one in self._kept.values() if one.holds(cache)), None)
        if recording is None:
            recording = self._of(Size.of(cache), cache)
            recording.take_in(cache)
        return recording.replay(tokens, cache)

    def _of(self, size: Size, cache: DecoderCache) -> Recording:
        if size not in self._kept:
            self._kept[size] = Recording(self._decoder, size, cache, self._record)
        self._kept.move_to_end(size)
        while len(self._kept) > MOST_RECORDINGS:
            self._kept.popitem(last=False)  # a cache in it keeps the buffers
        return self._kept[size]


def _power_of_two(count: int) -> int:
    """The next, or the same."""
    return 1 << (count - 1).bit_length()


def _move_out(cache: DecoderCache) -> None:
    cache.past = [past.clone() for past in cache.past]
    cache.ancestry, cache.cross_bias = cache.ancestry.clone(), cache.cross_bias.clone()
    cache.memories = [KeyValue(*(part.clone() for part in memory)) for memory in cache.memories]
