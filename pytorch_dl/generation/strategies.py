"""Which tokens come next: each strategy is a function from the beams and their logits to candidates.

Shapes: B sentences, K beams, C candidates, V vocabulary, n tokens of a beam that may be among the best.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pytorch_dl.generation.beams import Beams, Candidates, Floats, Ints
from pytorch_dl.generation.hypothesis import Request
from pytorch_dl.generation.rules import met, wanted
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.generation.top import top

# (logits (B, K, V), the log of what their exponentials sum to (B, K), beams, their sentences) -> candidates
Strategy = Callable[[Tensor, Tensor, Beams, Sequence[Request]], Candidates]


def strategy_of(settings: SearchSettings, *, eos_id: int, constrained: bool) -> Strategy:
    """What the settings ask for."""
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


def greedy(
    logits: Tensor, normalizers: Tensor, beams: Beams, requests: Sequence[Request], *, eos_id: int
) -> Candidates:
    """The likeliest token of each beam; ties go to the lowest id."""
    values, tokens = top(logits, 1)
    return _chains((values - normalizers.unsqueeze(-1))[..., 0], tokens[..., 0], beams, eos_id)


def beam_search(
    logits: Tensor, normalizers: Tensor, beams: Beams, requests: Sequence[Request], *, eos_id: int
) -> Candidates:
    """The 2 K best extensions: those of the first K that end in eos are finished, the K best others go on.

    Ties go to the better beam, then to the better logit, then to the lowest token id.
    """
    count = 2 * beams.tokens.shape[1]
    gains, tokens = _best(logits, normalizers, count)
    totals = beams.totals[..., None] + gains  # (B, K, n)
    return _ranked(totals, gains, tokens, totals, count=count, eos_id=eos_id)


def diverse_beam_search(
    logits: Tensor,
    normalizers: Tensor,
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
    sentences, size = len(beams), beams.tokens.shape[1] // groups
    vocabulary = logits.size(-1)
    taken = np.zeros((sentences, vocabulary))
    rows = np.arange(sentences)[:, None]
    parts = []
    for group in range(groups):
        own = slice(group * size, (group + 1) * size)
        spread = torch.from_numpy(penalty * taken).to(logits.device, logits.dtype)  # (B, V)
        ranks, tokens = _best(logits[:, own] - spread[:, None], normalizers[:, own], 2 * size)
        gains = ranks + penalty * np.take_along_axis(taken[:, None], tokens, axis=2)
        before = beams.totals[:, own, None]
        if not beams.lengths.any():  # all beams hold the empty prefix: each group begins with one of them
            before = np.where(np.arange(size)[:, None] == 0, 0.0, -np.inf)[None]
        part = _ranked(before + ranks, gains, tokens, before + gains, count=2 * size, eos_id=eos_id)
        np.add.at(taken, (rows, part.tokens[rows, part.live]), 1.0)
        parts.append(part._replace(parents=part.parents + group * size, live=part.live + group * 2 * size))
    return Candidates(*(np.concatenate(same, axis=1) for same in zip(*parts, strict=True)))


def constrained_beam_search(
    logits: Tensor, normalizers: Tensor, beams: Beams, requests: Sequence[Request], *, eos_id: int
) -> Candidates:
    """Beam search that also looks at the tokens which required runs want, and keeps some beams for each count of them.

    The K beams are dealt out to how many required tokens a prefix has, the most first (Post and Vilar 2018,
    arXiv:1804.06609).
    """
    beam_size = beams.tokens.shape[1]
    gains, tokens = _best(logits, normalizers, 2 * beam_size)
    gains, tokens = _with_wanted(gains, tokens, logits, normalizers, beams, requests)
    totals = beams.totals[..., None] + gains
    ranked = _ranked(totals, gains, tokens, totals, count=totals[0].size, eos_id=eos_id)
    spare = ranked.tokens.shape[1]  # the place of a candidate that is none
    ended, live = ranked.ended.copy(), ranked.live.copy()
    for row, request in enumerate(requests):
        if not request.required:
            continue
        real = np.flatnonzero(ranked.totals[row] > -np.inf)
        counts = {place: met(_extended(beams, ranked, row, place), request.required) for place in real.tolist()}
        is_end = ranked.tokens[row] == eos_id
        ended[row] = False
        ended[row, [place for place in _dealt(counts, beam_size) if is_end[place]]] = True
        going_on = _dealt({place: count for place, count in counts.items() if not is_end[place]}, beam_size)
        live[row] = [*going_on, *[spare] * (beam_size - len(going_on))]
    none = Candidates(*(np.full((len(beams), 1), value) for value in (0, eos_id, -np.inf, -np.inf, False, 0)))
    columns = [np.concatenate(pair, axis=1) for pair in zip(ranked[:4], none[:4], strict=True)]
    return Candidates(*columns, ended=np.pad(ended, ((0, 0), (0, 1))), live=live)


class Sampling:
    """Independent draws: K chains for each sentence, whose luck is a function of the seed and the sentence's number."""

    def __init__(self, settings: SearchSettings, eos_id: int) -> None:
        self.settings, self.eos_id = settings, eos_id
        self._luck: dict[int, Floats] = {}

    def __call__(self, logits: Tensor, normalizers: Tensor, beams: Beams, requests: Sequence[Request]) -> Candidates:
        """Draw a token for each beam."""
        weights, ids = self._candidates(logits)  # (B, K, n)
        steps = zip(requests, beams.lengths, beams.limits, strict=True)
        luck = np.stack([self._numbers(request, limit)[min(length, limit - 1)] for request, length, limit in steps])
        sums = weights.cumsum(-1)
        drawn = torch.from_numpy(luck).to(sums).unsqueeze(-1) * sums[..., -1:]  # (B, K, 1)
        place = torch.searchsorted(sums, drawn, right=True).clamp_max(sums.size(-1) - 1)
        tokens = place if ids is None else ids.gather(-1, place)
        gains = (logits.gather(-1, tokens) - normalizers.unsqueeze(-1))[..., 0]
        return _chains(gains, tokens[..., 0], beams, self.eos_id)

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights of the tokens that may be drawn, and their ids, or None where they stand in the order of ids."""
        s, ids = self.settings, None
        values = logits.double() / s.temperature
        if s.top_k or s.top_p < 1:
            values, ids = top(values, s.top_k or values.size(-1))
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


def _best(logits: Tensor, normalizers: Tensor, count: int) -> tuple[Floats, Ints]:
    """Log-probabilities and ids of the likeliest tokens of each beam, (B, K, n) both."""
    values, tokens = top(logits, count)
    return (values - normalizers.unsqueeze(-1)).double().cpu().numpy(), tokens.cpu().numpy()


def _ranked(ranks: Floats, gains: Floats, tokens: Ints, totals: Floats, *, count: int, eos_id: int) -> Candidates:
    """The best `count` of all extensions (B, K, n) by rank, and what becomes of them in a beam search."""
    sentences, beam_size, each = ranks.shape
    order = np.argsort(-ranks.reshape(sentences, -1), axis=1, kind="stable")[:, :count]
    rows = np.arange(sentences)[:, None]
    tokens, gains = tokens.reshape(sentences, -1)[rows, order], gains.reshape(sentences, -1)[rows, order]
    totals = totals.reshape(sentences, -1)[rows, order]
    is_end = tokens == eos_id
    ended = is_end & (totals > -np.inf) & (np.arange(tokens.shape[1]) < beam_size)
    # At most one extension of a beam ends, so that K of the best 2 K go on.
    live = np.argsort(is_end, axis=1, kind="stable")[:, :beam_size]
    return Candidates(order // each, tokens, gains, totals, ended, live)


def _with_wanted(
    gains: Floats,
    tokens: Ints,
    logits: Tensor,
    normalizers: Tensor,
    beams: Beams,
    requests: Sequence[Request],
) -> tuple[Floats, Ints]:
    """The candidates (B, K, n), and those that required runs want behind them, where they are not among them."""
    beam_size = tokens.shape[1]
    more = [
        [
            sorted(wanted(beams.prefix(row, beam), request.required) - set(tokens[row, beam]))
            for beam in range(beam_size)
        ]
        for row, request in enumerate(requests)
    ]
    width = max((len(ids) for row in more for ids in row), default=0)
    ids = np.array([[[*some, *[0] * (width - len(some))] for some in row] for row in more], dtype=np.int64)
    real = np.array([[[True] * len(some) + [False] * (width - len(some)) for some in row] for row in more], dtype=bool)
    values = logits.gather(-1, torch.from_numpy(ids.reshape(*tokens.shape[:2], width)).to(logits.device))
    found = (values - normalizers.unsqueeze(-1)).double().cpu().numpy()
    found[~real.reshape(found.shape)] = -np.inf
    return np.concatenate([gains, found], axis=2), np.concatenate([tokens, ids.reshape(found.shape)], axis=2)


def _extended(beams: Beams, candidates: Candidates, row: int, place: int) -> list[int]:
    """The tokens of a candidate, eos included."""
    return [*beams.prefix(row, candidates.parents[row, place]), int(candidates.tokens[row, place])]


def _dealt(counts: dict[int, int], beam_size: int) -> list[int]:
    """Of places, best first, with their counts: the best of each count in turn, the highest count first."""
    banks = [
        [place for place in counts if counts[place] == count] for count in sorted({*counts.values()}, reverse=True)
    ]
    turns = [bank[turn] for turn in range(len(counts)) for bank in banks if turn < len(bank)]
    return sorted(turns[:beam_size])
