"""Which tokens come next: each strategy is a function from the beams and their logits to candidates.

Shapes: B sentences, K beams, C candidates, V vocabulary, n tokens that may be drawn.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.beams import Beams, Candidates, Floats, Ints
from pytorch_dl.generation.hypothesis import Request
from pytorch_dl.generation.rules import met, wanted
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.generation.top import highest, top

# (log-probabilities (B, K, V), beams, their sentences) -> candidates; what is banned has -inf
Strategy = Callable[[Tensor, Beams, Sequence[Request]], Candidates]


def strategy_of(settings: SearchSettings, *, eos_id: int, constrained: bool) -> Strategy:
    """What the settings ask for; `constrained` where there are required tokens."""
    if constrained and (settings.sampling or settings.diversity_groups > 1):
        kind = "sampling" if settings.sampling else "groups of beams"
        raise ConfigError(f"required words do not go with {kind}", fix="leave out one of the two")
    if settings.sampling:
        return Sampling(settings, eos_id)
    if constrained:
        return lambda *state: constrained_beam_search(*state, eos_id=eos_id)
    if settings.beam_size == 1:
        return lambda *state: greedy(*state, eos_id=eos_id)
    if settings.diversity_groups > 1:
        groups, penalty = settings.diversity_groups, settings.diversity_penalty
        return lambda *state: diverse_beam_search(*state, eos_id=eos_id, groups=groups, penalty=penalty)
    return lambda *state: beam_search(*state, eos_id=eos_id)


def greedy(log_probs: Tensor, beams: Beams, requests: Sequence[Request], *, eos_id: int) -> Candidates:
    """The likeliest token of each beam, also by logits; ties go to the lowest id."""
    return _chains(*highest(log_probs), beams, eos_id)


def beam_search(log_probs: Tensor, beams: Beams, requests: Sequence[Request], *, eos_id: int) -> Candidates:
    """The 2 K best extensions: those of the first K that end in eos are finished, the K best others go on.

    Ties go to the better beam, then to the lowest token id.
    """
    best = _extensions(log_probs, beams.totals, count=2 * beams.tokens.shape[1])
    return _judged(best, beams.tokens.shape[1], eos_id)


def diverse_beam_search(
    log_probs: Tensor,
    beams: Beams,
    requests: Sequence[Request],
    *,
    eos_id: int,
    groups: int,
    penalty: float,
) -> Candidates:
    """Beam search in groups, one after another: a token costs `penalty` for each beam that has just taken it.

    The penalty decides what is chosen now and is no part of a score (Vijayakumar et al. 2016, arXiv:1610.02424, with
    Hamming diversity).
    """
    size = beams.tokens.shape[1] // groups
    rows = np.arange(len(beams))[:, None]
    cost = np.zeros((len(beams), 1, log_probs.size(-1)))  # (B, 1, V)
    parts = []
    for group in range(groups):
        own = slice(group * size, (group + 1) * size)
        before = beams.totals[:, own]
        first = (beams.lengths == 0)[:, None]  # all beams hold the empty prefix: each group begins with one of them
        before = np.where(first, np.where(np.arange(size) == 0, 0.0, -np.inf), before)
        best = _extensions(log_probs[:, own], before, count=2 * size, cost=cost)
        part = _judged(best, size, eos_id)
        np.add.at(cost[:, 0], (rows, part.tokens[rows, part.live]), penalty)
        parts.append(part._replace(parents=part.parents + group * size, live=part.live + group * 2 * size))
    return Candidates(*(np.concatenate(same, axis=1) for same in zip(*parts, strict=True)))


def constrained_beam_search(log_probs: Tensor, beams: Beams, requests: Sequence[Request], *, eos_id: int) -> Candidates:
    """Beam search that also looks at the tokens which required runs want, and keeps some beams for each count of them.

    The K beams are dealt out to how many required tokens a prefix has, the most first (Post and Vilar 2018,
    arXiv:1804.06609).
    """
    beam_size = beams.tokens.shape[1]
    best = _extensions(log_probs, beams.totals, count=2 * beam_size)
    best = _with_wanted(best, log_probs, beams, requests)
    none = Extensions(*(np.full((len(beams), 1), value) for value in (0, eos_id, -np.inf, -np.inf)))  # fills up
    spare = best.tokens.shape[1]  # its place
    judged = _judged(
        Extensions(*(np.concatenate(pair, axis=1) for pair in zip(best, none, strict=True))), beam_size, eos_id
    )
    for row, request in enumerate(requests):
        if not request.required:
            continue
        real = np.flatnonzero(best.totals[row] > -np.inf).tolist()
        counts = {place: met(_extended(beams, best, row, place), request.required) for place in real}
        is_end = best.tokens[row] == eos_id
        judged.ended[row] = False
        judged.ended[row, [place for place in _dealt(counts, beam_size) if is_end[place]]] = True
        going_on = _dealt({place: count for place, count in counts.items() if not is_end[place]}, beam_size)
        judged.live[row] = [*going_on, *[spare] * (beam_size - len(going_on))]
    return judged


class Sampling:
    """Independent draws: K chains for each sentence, whose luck is a function of the seed and the sentence's number."""

    def __init__(self, settings: SearchSettings, eos_id: int) -> None:
        self.settings, self.eos_id = settings, eos_id
        self._luck: dict[int, Floats] = {}

    def __call__(self, log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> Candidates:
        """Draw a token for each beam."""
        weights, ids = self._candidates(log_probs)  # (B, K, n)
        steps = zip(requests, beams.lengths, beams.limits, strict=True)
        luck = np.stack([self._numbers(request, limit)[min(length, limit - 1)] for request, length, limit in steps])
        sums = weights.cumsum(-1)
        drawn = torch.from_numpy(luck).to(sums).unsqueeze(-1) * sums[..., -1:]  # (B, K, 1)
        place = torch.searchsorted(sums, drawn, right=True).clamp_max(sums.size(-1) - 1)
        tokens = place if ids is None else ids.gather(-1, place)
        return _chains(log_probs.gather(-1, tokens)[..., 0], tokens[..., 0], beams, self.eos_id)

    def _candidates(self, log_probs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights of the tokens that may be drawn, and their ids, or None where they stand in the order of ids."""
        s, ids = self.settings, None
        values = log_probs.double() / s.temperature
        if s.top_k or s.top_p < 1:
            values, ids = values.sort(dim=-1, descending=True, stable=True)
            values, ids = values[..., : s.top_k or None], ids[..., : s.top_k or None]
        weights = (values - values.amax(-1, keepdim=True)).exp()
        if s.top_p < 1:
            before = weights.cumsum(-1) - weights
            weights = weights.masked_fill(before >= s.top_p * weights.sum(-1, keepdim=True), 0.0)
        if s.min_p:
            weights = weights.masked_fill(weights < s.min_p, 0.0)  # the likeliest token's is 1
        return weights, ids

    def _numbers(self, request: Request, limit: int) -> Floats:
        """Numbers in [0, 1) for each step and chain of a sentence."""
        if request.number not in self._luck:
            generator = np.random.Generator(np.random.Philox(key=[self.settings.seed, request.number]))
            self._luck[request.number] = generator.random((limit, self.settings.n_best))
        return self._luck[request.number]


def _chains(gains: Tensor, tokens: Tensor, beams: Beams, eos_id: int) -> Candidates:
    """Each beam goes on with a token (B, K) of its own, or ends with it."""
    ids, values = tokens.cpu().numpy(), gains.double().cpu().numpy()
    totals = beams.totals + values
    ended = (ids == eos_id) & (totals > -np.inf)
    itself = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return Candidates(itself, ids, values, totals, ended, itself)


class Extensions(NamedTuple):
    """Prefixes with one more token, best first, (B, C) all."""

    parents: Ints
    tokens: Ints
    gains: Floats
    totals: Floats


def _extensions(log_probs: Tensor, before: Floats, *, count: int, cost: Floats | None = None) -> Extensions:
    """The best of all extensions of the beams, whose log-probabilities so far are `before` (B, K).

    `cost` (B, 1, V) counts for what is best, and not for log-probabilities.
    """
    vocabulary = log_probs.size(-1)
    ranked = log_probs if cost is None else log_probs - torch.from_numpy(cost).to(log_probs)
    _, places = top(ranked, count, torch.from_numpy(before).to(log_probs))  # (B, C)
    gains, found = log_probs.flatten(1).gather(1, places).double().cpu().numpy(), places.cpu().numpy()
    parents, tokens = found // vocabulary, found % vocabulary
    best = Extensions(parents, tokens, gains, np.take_along_axis(before, parents, axis=1) + gains)
    paid = 0.0 if cost is None else np.take_along_axis(cost[:, 0], tokens, axis=1)
    return _sorted(best, best.totals - paid)


def _sorted(extensions: Extensions, ranks: Floats) -> Extensions:
    rows, order = np.arange(len(ranks))[:, None], np.argsort(-ranks, axis=1, kind="stable")
    parents, tokens, gains, totals = extensions
    return Extensions(parents[rows, order], tokens[rows, order], gains[rows, order], totals[rows, order])


def _judged(best: Extensions, beam_size: int, eos_id: int) -> Candidates:
    """What becomes of extensions in a beam search. At most one of each beam ends, so that K of the best 2 K go on."""
    is_end = best.tokens == eos_id
    ended = is_end & (best.totals > -np.inf) & (np.arange(is_end.shape[1]) < beam_size)
    return Candidates(*best, ended, np.argsort(is_end, axis=1, kind="stable")[:, :beam_size])


def _with_wanted(best: Extensions, log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> Extensions:
    """The extensions, and among them those that required runs want."""
    more = []
    for row, request in enumerate(requests):
        present = set(zip(best.parents[row].tolist(), best.tokens[row].tolist(), strict=True))
        each = [(beam, wanted(beams.prefix(row, beam), request.required)) for beam in range(beams.tokens.shape[1])]
        asked = [(beam, token) for beam, tokens in each for token in sorted(tokens)]
        more.append([pair for pair in asked if pair not in present])
    width = max(map(len, more))
    filled = [[*some, *[(0, 0)] * (width - len(some))] for some in more]
    pairs = np.array(filled, dtype=np.int64).reshape(len(more), width, 2)
    parents, tokens = pairs[..., 0], pairs[..., 1]
    rows = torch.arange(len(more)).unsqueeze(1)
    beam, token = torch.from_numpy(parents), torch.from_numpy(tokens)
    gains = log_probs.cpu()[rows, beam, token].double().numpy()
    gains[np.arange(width) >= np.array([[len(some)] for some in more])] = -np.inf  # they only fill up
    added = Extensions(parents, tokens, gains, np.take_along_axis(beams.totals, parents, axis=1) + gains)
    both = Extensions(*(np.concatenate(pair, axis=1) for pair in zip(best, added, strict=True)))
    return _sorted(both, both.totals)


def _extended(beams: Beams, candidates: Extensions, row: int, place: int) -> list[int]:
    """The tokens of a candidate, eos included."""
    return [*beams.prefix(row, candidates.parents[row, place]), int(candidates.tokens[row, place])]


def _dealt(counts: dict[int, int], beam_size: int) -> list[int]:
    """Of places, best first, with their counts: the best of each count in turn, the highest count first."""
    banks = [
        [place for place in counts if counts[place] == count] for count in sorted({*counts.values()}, reverse=True)
    ]
    turns = [bank[turn] for turn in range(len(counts)) for bank in banks if turn < len(bank)]
    return sorted(turns[:beam_size])
