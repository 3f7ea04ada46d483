"""The search: sentences that are decoded together, one token of each beam at a time, by any strategy.

What comes out for a sentence does not depend on the others: limits, ties and endings are decided sentence by sentence.
Those that have ended stay as idle rows until a share of the batch has; then they leave, and others may enter.
Shapes: B sentences in the batch, K beams, S source length, V vocabulary.
"""

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from pytorch_dl.errors import NonFiniteError
from pytorch_dl.generation import rules
from pytorch_dl.generation.beams import Beams, Bools, Candidates, Ints
from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.generation.strategies import strategy_of

IDLE_SHARE = 4  # ended sentences leave when they are one in so many


class Cache(Protocol):
    """What a model remembers between two decoding steps."""

    def reorder(self, beams: Tensor) -> None:
        """Let beam k of sentence b go on from the former beam `beams[b, k]`; beams: (B, K)."""

    def keep(self, sentences: Tensor) -> None:
        """Drop all but these sentences, given by their present row, in this order; sentences: (B',)."""

    def join(self, other: Any) -> None:
        """Take in the sentences of another cache of the same model and beams, behind those that are here."""


CacheT = TypeVar("CacheT", bound=Cache)


class StepModel(Protocol[CacheT]):
    """An encoder-decoder that search can drive."""

    def start_decoding(self, src: Tensor, *, beam_size: int = 1) -> CacheT:
        """Encode src (B, S), padded with the pad id."""
        ...

    def decode_step(self, tokens: Tensor, cache: CacheT) -> Tensor:
        """The last token of each beam (B, K) -> hidden states (B, K, d); the cache moves on by one."""
        ...

    def project(self, hidden: Tensor) -> Tensor:
        """hidden (..., d) -> logits (..., V) of the next token."""
        ...


class Special(NamedTuple):
    """Ids with a meaning, and those that never come out."""

    pad_id: int
    bos_id: int
    eos_id: int
    banned_ids: frozenset[int]


class Entry(NamedTuple):
    """A sentence as it enters a batch."""

    place: int
    """Where its results belong."""
    request: Request
    limit: int
    """The most tokens that it may get, eos included."""


class Search(Generic[CacheT]):
    """A batch of sentences, from their entry to their end. To be used without gradients."""

    def __init__(
        self,
        model: StepModel[CacheT],
        settings: SearchSettings,
        special: Special,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        assert special.eos_id not in special.banned_ids, f"eos id {special.eos_id} is banned: nothing could end"
        self.model, self.settings, self.special, self.device = model, settings, special, torch.device(device)
        self.cache: CacheT | None = None
        self.entries: list[Entry] = []  # of each row
        self.found: list[list[Hypothesis]] = []
        self.beams = self._first_beams([])
        self.idle: Bools = np.zeros(0, dtype=np.bool_)
        self._never = rules.never(special.banned_ids, self.device)
        self._strategy = lru_cache(partial(strategy_of, settings, eos_id=special.eos_id))

    def __len__(self) -> int:
        return len(self.entries)

    def enter(self, entries: Sequence[Entry]) -> None:
        """Take in sentences, best longest first: then short ones are encoded without much padding."""
        assert all(entry.limit >= 1 for entry in entries), [entry.limit for entry in entries]
        rows = [[*entry.request.source, self.special.eos_id] for entry in entries]
        width = max(map(len, rows))
        src = torch.tensor([row + [self.special.pad_id] * (width - len(row)) for row in rows], device=self.device)
        cache = self.model.start_decoding(src, beam_size=self.settings.beams)  # src: (B, S)
        if self.cache is None:
            self.cache = cache
        else:
            self.cache.join(cache)
        self.beams = self.beams.join(self._first_beams([entry.limit for entry in entries]))
        self.entries += entries
        self.found += [[] for _ in entries]
        self.idle = np.concatenate([self.idle, np.zeros(len(entries), dtype=np.bool_)])

    def step(self) -> list[tuple[Entry, list[Hypothesis]]]:
        """Write one token of each beam; return the sentences that have ended, with their best hypotheses."""
        assert self.cache is not None
        tokens = torch.from_numpy(self.beams.tokens).to(self.device)
        candidates = self._candidates(self.model.project(self.model.decode_step(tokens, self.cache)))
        self._note_ended(candidates)
        parents = np.take_along_axis(candidates.parents, candidates.live, axis=1)
        self.beams.advance(candidates)
        done = self._done() & ~self.idle
        results = [(self.entries[row], self._results(row)) for row in np.flatnonzero(done).tolist()]
        self.idle |= done
        self._leave_or_reorder(parents)
        return results

    def _first_beams(self, limits: Sequence[int]) -> Beams:
        settings = self.settings
        return Beams.first(limits, beams=settings.beams, all_alive=settings.sampling, bos_id=self.special.bos_id)

    def _candidates(self, logits: Tensor) -> Candidates:
        """What may come next; logits (B, K, V) may be changed."""
        requests = [entry.request for entry in self.entries]
        values = logits
        if self.settings.normalized:
            values = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
            self._refuse_nan(values[..., 0])  # each number of a row has the row's sum in it
        force_prefixes = rules.prefix_first(values, self.beams, requests)
        for rule in self._rules(requests):
            rule(values, self.beams, requests)
        force_prefixes()
        strategy = self._strategy(constrained=any(request.required for request in requests))
        candidates = strategy(values, self.beams, requests)
        if not self.settings.normalized:
            chosen = torch.from_numpy(candidates.gains)  # logits; -inf where everything was banned
            self._refuse_nan(chosen.masked_fill(chosen == torch.inf, torch.nan))
        return candidates

    def _rules(self, requests: Sequence[Request]) -> list[rules.Rule]:
        """Those that have something to say."""
        s, eos_id = self.settings, self.special.eos_id
        asked = [
            (bool(self.special.banned_ids), self._never),
            (s.min_length > 1, rules.no_early_end(s.min_length, eos_id)),
            (s.no_repeat_ngram > 0, rules.no_repeat(s.no_repeat_ngram)),
            (any(request.banned for request in requests), rules.no_banned_run),
            (any(request.required for request in requests), rules.no_end_before_required(eos_id)),
        ]
        return [rule for wanted, rule in asked if wanted]

    def _note_ended(self, candidates: Candidates) -> None:
        for row, place in np.argwhere(candidates.ended).tolist():
            if self.idle[row]:
                continue
            beam, log_prob = int(candidates.parents[row, place]), float(candidates.totals[row, place])
            gains = [*self.beams.gains_of(row, beam), float(candidates.gains[row, place])]
            score = self.settings.score(log_prob, len(gains))
            self.found[row].append(self._hypothesis(self.beams.prefix(row, beam), log_prob, gains, finished=True))
            self.beams.found[row] += 1
            self.beams.best[row] = max(self.beams.best[row], score)
            candidates.totals[row, place] = -np.inf  # it goes no further

    def _done(self) -> Bools:
        """Which sentences have ended: by their limit, for want of live prefixes, or by the rule of early stopping."""
        beams, s = self.beams, self.settings
        alive = beams.totals.max(axis=1, initial=-np.inf)  # (B,)
        done: Bools = (beams.lengths >= beams.limits) | (alive == -np.inf)
        if s.sampling:
            return done
        enough = beams.found >= s.beam_size
        if enough.any():
            lengths = beams.limits if s.early_stopping == "sure" else beams.lengths
            hopeless = alive / np.array([s.norm(length) for length in lengths]) <= beams.best
            done |= enough & (hopeless | (s.early_stopping == "first"))
        return done

    def _results(self, row: int) -> list[Hypothesis]:
        """The best hypotheses of a sentence that has ended; at its limit the live prefixes count too, unfinished."""
        found = self.found[row]
        if self.beams.lengths[row] >= self.beams.limits[row]:
            for beam in np.flatnonzero(self.beams.totals[row] > -np.inf).tolist():
                log_prob, gains = float(self.beams.totals[row, beam]), self.beams.gains_of(row, beam)
                found.append(self._hypothesis(self.beams.prefix(row, beam), log_prob, gains, finished=False))
        found = found or [Hypothesis([], -np.inf, -np.inf, False)]  # everything was banned
        required = self.entries[row].request.required
        lacking = [rules.lacks(hypothesis.ids, required) for hypothesis in found]
        ranked = sorted(zip(lacking, found, strict=True), key=lambda pair: (pair[0], -pair[1].score, pair[1].ids))
        return [hypothesis for _, hypothesis in ranked[: self.settings.n_best]]

    def _hypothesis(self, ids: list[int], log_prob: float, gains: list[float], *, finished: bool) -> Hypothesis:
        if not self.settings.normalized:
            return Hypothesis(ids, math.nan, math.nan, finished)
        return Hypothesis(ids, self.settings.score(log_prob, len(gains)), log_prob, finished, token_log_probs=gains)

    def _leave_or_reorder(self, parents: Ints) -> None:
        assert self.cache is not None
        idle = int(self.idle.sum())
        if idle == len(self):
            self.cache = None
        elif (parents != np.arange(parents.shape[1])).any():
            self.cache.reorder(torch.from_numpy(parents).to(self.device))
        if idle * IDLE_SHARE >= len(self) or (self.beams.lengths[self.idle] >= self.beams.limits.max()).any():
            stay = np.flatnonzero(~self.idle)
            if self.cache is not None:
                self.cache.keep(torch.from_numpy(stay).to(self.device))
            self.beams, self.idle = self.beams.take(stay), self.idle[stay]
            self.entries = [self.entries[row] for row in stay]
            self.found = [self.found[row] for row in stay]

    def _refuse_nan(self, values: Tensor) -> None:
        """Raise for values (B, K) that come of logits which are not finite numbers."""
        bad = values.isnan().any(-1).cpu().numpy()  # (B,)
        if bad.any():
            raise NonFiniteError(
                f"the model's logits for output token {self.beams.lengths[bad].min() + 1} are not finite numbers",
                fix="translate from an earlier checkpoint, or retrain with a lower learning rate",
            )
