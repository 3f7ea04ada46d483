"""A tiny recurrent model with a cache to permute, searches on it, and all of its outputs."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.search import Entry, Search, Special
from pytorch_dl.generation.settings import SearchSettings

PAD = BOS = 0
EOS = 1
VOCABULARY = 5
SOURCES = [[2, 3, 4], [4], [3, 3], [2, 4, 2, 3], [3]]


class ToyCache:
    def __init__(self, source: Tensor, beam_size: int) -> None:
        self.source = source  # (B, d)
        self.state = torch.zeros(len(source), beam_size, source.size(1), dtype=source.dtype)  # (B, K, d)

    def reorder(self, beams: Tensor) -> None:
        self.state = self.state.gather(1, beams[..., None].expand_as(self.state))

    def keep(self, sentences: Tensor) -> None:
        self.source, self.state = self.source[sentences], self.state[sentences]

    def join(self, other: "ToyCache") -> None:
        self.source, self.state = torch.cat([self.source, other.source]), torch.cat([self.state, other.state])


class ToyModel:
    """A random recurrent network: the state depends on the whole prefix and its order, and on the source."""

    def __init__(self, seed: int, *, vocabulary: int = VOCABULARY, sharpness: float = 2.0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.embedding, self.output, self.source_embedding = (
            torch.randn(vocabulary, 6, generator=random, dtype=torch.float64) for _ in range(3)
        )
        self.recurrence = torch.randn(6, 6, generator=random, dtype=torch.float64)
        self.sharpness = sharpness
        self.batch_sizes: list[int] = []

    def start_decoding(self, src: Tensor, *, beam_size: int = 1) -> ToyCache:
        weights = torch.arange(1, src.size(1) + 1) * (src != PAD)  # padding must not count
        return ToyCache(torch.tanh((self.source_embedding[src] * weights[..., None]).sum(1)), beam_size)

    def decode_step(self, tokens: Tensor, cache: ToyCache) -> Tensor:
        self.batch_sizes.append(len(tokens))
        mixed = (self.recurrence * cache.state[..., None, :]).sum(-1)  # no matmul: its last bit depends on the batch
        cache.state = torch.tanh(mixed + self.embedding[tokens] + cache.source[:, None])
        return self.sharpness * (self.output * cache.state[..., None, :]).sum(-1)

    def project(self, hidden: Tensor) -> Tensor:
        return hidden  # decode_step makes logits already

    def log_probs(self, source: Sequence[int], prefix: Sequence[int]) -> Tensor:
        """(V,) after a prefix, from scratch."""
        cache = self.start_decoding(torch.tensor([[*source, EOS]]))
        for token in [BOS, *prefix]:
            logits = self.decode_step(torch.tensor([[token]]), cache)
        return logits[0, 0].log_softmax(-1)


class EndlessModel(ToyModel):
    """Never ends of its own accord."""

    def decode_step(self, tokens: Tensor, cache: ToyCache) -> Tensor:
        logits = super().decode_step(tokens, cache)
        logits[..., EOS] = -50.0
        return logits


def search(model, sources, limits, *, banned_ids=(BOS,), eos_id=EOS, requests=None, n_best=1, **changes):
    """The hypotheses of each source, all of them in one batch from the beginning."""
    special = Special(PAD, BOS, eos_id, frozenset(banned_ids))
    settings = SearchSettings(**changes)
    object.__setattr__(settings, "n_best", n_best)  # more than there are beams: all that was found, to be compared
    running = Search(model, settings, special)
    requests = requests or [Request(source, number=number) for number, source in enumerate(sources)]
    running.enter([Entry(*entry) for entry in zip(range(len(requests)), requests, limits, strict=True)])
    results = [None] * len(requests)
    while len(running):
        for entry, hypotheses in running.step():
            assert results[entry.place] is None
            results[entry.place] = hypotheses
    return results


def take_best(model, sources, limits, **settings):
    return [hypotheses[0] for hypotheses in search(model, sources, limits, beam_size=1, **settings)]


def hypothesis_of(model: ToyModel, source: Sequence[int], ids: Sequence[int], finished: bool, penalty: float):
    steps = [*ids, EOS] if finished else ids
    gains = [model.log_probs(source, steps[:i])[token].item() for i, token in enumerate(steps)]
    return Hypothesis(list(ids), sum(gains) / len(steps) ** penalty, sum(gains), finished, token_log_probs=gains)


def exhaustive(model: ToyModel, source: Sequence[int], limit: int, penalty: float) -> list[Hypothesis]:
    """All outputs within the limit, best first."""
    every = [
        hypothesis_of(model, source, ids, finished, penalty)
        for length in range(limit + 1)
        for ids in itertools.product(range(2, VOCABULARY), repeat=length)
        for finished in ([True] if length < limit else [False])
    ]
    return sorted(every, key=lambda hypothesis: -hypothesis.score)


def assert_same(actual: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(h.ids, h.finished) for h in actual] == [(h.ids, h.finished) for h in expected]
    assert [h.score for h in actual] == pytest.approx([h.score for h in expected], abs=1e-12)
    assert [h.log_prob for h in actual] == pytest.approx([h.log_prob for h in expected], abs=1e-12)
