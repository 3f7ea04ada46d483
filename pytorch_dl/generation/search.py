"""Greedy and beam search over any model that decodes one token at a time: ids in, ids out.

What comes out for a sentence does not depend on the other sentences of its batch: limits, ties and the end of the
search are decided sentence by sentence, and a sentence that has ended leaves the batch at once.
Shapes: B sentences still in the batch, K beams, S source length, V vocabulary, C candidates.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pytorch_dl.errors import NonFiniteError

_SPARE = 16  # tokens fetched beyond those needed, so that ties at the edge are nearly always all in sight


class Cache(Protocol):
    """What a model remembers between two decoding steps."""

    def reorder(self, beams: Tensor) -> None:
        """Let beam k of sentence b go on from the former beam `beams[b, k]`; beams: (B, K)."""

    def keep(self, sentences: Tensor) -> None:
        """Drop all but these sentences, given by their present row, in this order; sentences: (B',)."""


CacheT = TypeVar("CacheT", bound=Cache)


class StepModel(Protocol[CacheT]):
    """An encoder-decoder that search can drive."""

    def start_decoding(self, src: Tensor, *, max_length: int, beam_size: int = 1) -> CacheT:
        """Encode src (B, S), padded with the pad id, and make room for `max_length` steps of `beam_size` beams."""
        ...

    def decode_step(self, tokens: Tensor, cache: CacheT) -> Tensor:
        """Turn the last token of each beam (B, K) into logits (B, K, V) for the next; the cache moves on by one."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """One output of the search; `finished` is False when the limit came before the end-of-sentence token."""

    ids: list[int]
    """Without bos and eos."""
    score: float
    """log_prob / length ** length_penalty, where length counts eos."""
    log_prob: float
    """Sum of the log-probabilities of all tokens, eos included, in nats."""
    finished: bool
    source_cut: bool = False
    """True when the source was longer than the model can read, so that its end was left out."""


def greedy(
    model: StepModel[CacheT],
    src: Tensor,
    *,
    bos_id: int,
    eos_id: int,
    banned_ids: Iterable[int],
    max_length: Sequence[int] | Tensor,
    length_penalty: float,
) -> list[Hypothesis]:
    """Take the likeliest token at every step: the same as `beam_search` with one beam, in fewer operations.

    src (B, S); max_length (B,): the most tokens that each sentence may get, eos included; banned_ids never come out.
    Raises NonFiniteError when the model's logits are not numbers.
    """
    limits, banned = _checked(src, max_length, banned_ids, eos_id)
    if not limits:
        return []
    results: dict[int, Hypothesis] = {}
    outputs: list[list[int]] = [[] for _ in limits]
    sentences = list(range(len(limits)))  # the sentence in each row of the shrinking batch
    cache = model.start_decoding(src, max_length=max(limits), beam_size=1)
    tokens = src.new_full((len(limits), 1), bos_id)
    log_probs = torch.zeros(len(limits), 1, device=src.device)
    length = 0
    while sentences:
        length += 1
        gains, ids = _best_tokens(model.decode_step(tokens, cache), 1, banned, length)  # (B, 1, 1)
        log_probs, tokens = log_probs + gains[..., 0], ids[..., 0]
        stay = []
        for row, (token, log_prob) in enumerate(zip(tokens[:, 0].tolist(), log_probs[:, 0].tolist(), strict=True)):
            sentence = sentences[row]
            if token != eos_id:
                outputs[sentence].append(token)
            if token == eos_id or length == limits[sentence]:
                results[sentence] = _hypothesis(outputs[sentence], log_prob, token == eos_id, length_penalty)
            else:
                stay.append(row)
        if len(stay) < len(sentences):
            sentences = [sentences[row] for row in stay]
            log_probs, tokens = log_probs[stay], tokens[stay]
            _keep(cache, stay, src.device)
    return [results[sentence] for sentence in range(len(limits))]


def beam_search(
    model: StepModel[CacheT],
    src: Tensor,
    *,
    bos_id: int,
    eos_id: int,
    banned_ids: Iterable[int],
    max_length: Sequence[int] | Tensor,
    beam_size: int,
    length_penalty: float,
    n_best: int,
) -> list[list[Hypothesis]]:
    """Find the `n_best` highest scores of each sentence, best first, with `beam_size` prefixes alive.

    Each step looks at the 2 K best extensions: those among the first K that end in eos are finished, the K best of the
    others go on. A sentence ends at its limit, or once it has K finished hypotheses and no live one, scored as if it
    ended here, beats the best of them. At the limit the live ones count too, unfinished. Ties go to the better beam,
    then to the better logit, then to the lowest token id. Arguments and errors as for `greedy`.
    """
    limits, banned = _checked(src, max_length, banned_ids, eos_id)
    assert beam_size >= 1 and n_best >= 1, (beam_size, n_best)
    if not limits:
        return []
    found: list[list[Hypothesis]] = [[] for _ in limits]
    sentences = list(range(len(limits)))
    cache = model.start_decoding(src, max_length=max(limits), beam_size=beam_size)
    live = _first_beams(len(limits), beam_size, bos_id)
    length = 0
    while sentences:
        length += 1
        logits = model.decode_step(live.tokens.to(src.device), cache)
        candidates = _extensions(live, logits, banned, length)
        for row, hypothesis in _finished(candidates, beam_size, eos_id, length_penalty):
            found[sentences[row]].append(hypothesis)
        live = _best_live(candidates, beam_size, eos_id)
        stay = []
        for row, sentence in enumerate(sentences):
            if length == limits[sentence]:
                found[sentence] += _unfinished(live, row, length_penalty)
            elif _may_improve(live, row, found[sentence], length_penalty):
                stay.append(row)
        if len(stay) < len(sentences):
            sentences = [sentences[row] for row in stay]
            live = _Beams(*(part[stay] for part in live))
            _keep(cache, stay, src.device)
        if sentences and not torch.equal(live.parents, torch.arange(beam_size).expand_as(live.parents)):
            cache.reorder(live.parents.to(src.device))
    return [sorted(hypotheses, key=lambda h: (-h.score, h.ids))[:n_best] for hypotheses in found]


class _Beams(NamedTuple):
    """Prefixes, best first; on the CPU, so that the bookkeeping costs one transfer a step. K may be C here."""

    log_probs: Tensor  # (B, K); -inf marks a beam that holds nothing
    parents: Tensor  # (B, K): the beam of the step before that each goes on from
    tokens: Tensor  # (B, K): the last token
    prefixes: Tensor  # (B, K, length): all tokens


def _first_beams(sentences: int, beam_size: int, bos_id: int) -> _Beams:
    """One beam that holds the empty prefix, the others nothing."""
    log_probs = torch.full((sentences, beam_size), -torch.inf)
    log_probs[:, 0] = 0.0
    tokens = torch.full((sentences, beam_size), bos_id)
    return _Beams(log_probs, torch.zeros_like(tokens), tokens, tokens[..., None][..., :0])


def _extensions(live: _Beams, logits: Tensor, banned: Tensor, length: int) -> _Beams:
    """The best 2 K extensions of the K live beams by one token; logits (B, K, V)."""
    sentences, beam_size = live.tokens.shape
    gains, ids = _best_tokens(logits, 2 * beam_size, banned, length)  # (B, K, n)
    totals = (live.log_probs.to(gains.device)[..., None] + gains).flatten(1)  # (B, K n)
    totals, order = totals.sort(dim=1, descending=True, stable=True)
    totals, order = totals[:, : 2 * beam_size], order[:, : 2 * beam_size]  # (B, C)
    parents, tokens = order // ids.size(2), ids.flatten(1).gather(1, order)
    totals, parents, tokens = totals.cpu(), parents.cpu(), tokens.cpu()
    prefixes = live.prefixes[torch.arange(sentences)[:, None], parents]  # (B, C, length - 1)
    return _Beams(totals, parents, tokens, torch.cat([prefixes, tokens[..., None]], dim=2))


def _finished(
    candidates: _Beams, beam_size: int, eos_id: int, length_penalty: float
) -> Iterator[tuple[int, Hypothesis]]:
    """Those of the K best candidates that end in eos, each with its row."""
    ended = (candidates.tokens == eos_id) & (candidates.log_probs > -torch.inf)
    for row, rank in ended[:, :beam_size].nonzero().tolist():
        ids = candidates.prefixes[row, rank, :-1].tolist()
        yield row, _hypothesis(ids, candidates.log_probs[row, rank].item(), True, length_penalty)


def _unfinished(live: _Beams, row: int, length_penalty: float) -> list[Hypothesis]:
    """The live beams of one row, cut off by the limit."""
    pairs = zip(live.prefixes[row].tolist(), live.log_probs[row].tolist(), strict=True)
    return [_hypothesis(ids, log_prob, False, length_penalty) for ids, log_prob in pairs if log_prob > -torch.inf]


def _best_live(candidates: _Beams, beam_size: int, eos_id: int) -> _Beams:
    """The K best candidates that do not end in eos: at most one per beam does, so there are always K."""
    going_on = (candidates.tokens == eos_id).int().argsort(dim=1, stable=True)[:, :beam_size]  # (B, K)
    rows = torch.arange(len(going_on))[:, None]
    return _Beams(*(part[rows, going_on] for part in candidates))


def _may_improve(live: _Beams, row: int, found: list[Hypothesis], length_penalty: float) -> bool:
    """Whether the search goes on for a sentence that has not reached its limit."""
    best = live.log_probs[row, 0].item()
    _, beam_size, length = live.prefixes.shape
    if len(found) < beam_size:
        return best > -torch.inf
    return _score(best, length, length_penalty) > max(hypothesis.score for hypothesis in found)


def _checked(
    src: Tensor, max_length: Sequence[int] | Tensor, banned_ids: Iterable[int], eos_id: int
) -> tuple[list[int], Tensor]:
    """The limits as a list and the banned ids as a tensor beside the source."""
    limits = [int(limit) for limit in max_length]
    banned = sorted(set(banned_ids))
    assert src.dim() == 2 and len(limits) == len(src), (src.shape, len(limits))
    assert min(limits, default=1) >= 1, f"a limit of {min(limits)} tokens"
    assert eos_id not in banned, f"eos id {eos_id} is banned: nothing could end"
    return limits, torch.tensor(banned, dtype=torch.long, device=src.device)


def _best_tokens(logits: Tensor, count: int, banned: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids of the `count` likeliest tokens that may come out, best first, equal ones by id.

    logits (..., V) -> two of (..., min(count, V)). Banned tokens keep their share of the probability, so that a score
    is what the model says; where too few others exist they fill up with -inf.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    values, ids = _top(logits, count + len(banned))
    log_probs = values - logits.logsumexp(dim=-1, keepdim=True)
    if log_probs.isnan().any():
        raise NonFiniteError(
            f"the model's logits for output token {length} are not finite numbers",
            fix="translate from an earlier checkpoint, or retrain with a lower learning rate",
        )
    if len(banned):
        log_probs = log_probs.masked_fill(torch.isin(ids, banned), -torch.inf)
        log_probs, order = log_probs.sort(dim=-1, descending=True, stable=True)
        ids = ids.gather(-1, order)
    return log_probs[..., :count], ids[..., :count]


def _top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Like `torch.topk` along the last dimension, but equal values come in the order of their index."""
    size = values.size(-1)
    count = min(count, size)
    best, index = values.topk(min(count + _SPARE, size), dim=-1)
    if best.size(-1) < size and (best[..., count - 1] == best[..., -1]).any():  # there may be more ties out of sight
        best, index = values.sort(dim=-1, descending=True, stable=True)
        return best[..., :count], index[..., :count]
    index, order = index.sort(dim=-1)
    best, order = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return best[..., :count], index.gather(-1, order)[..., :count]


def _hypothesis(ids: list[int], log_prob: float, finished: bool, length_penalty: float) -> Hypothesis:
    return Hypothesis(ids, _score(log_prob, len(ids) + finished, length_penalty), log_prob, finished)


def _score(log_prob: float, length: int, length_penalty: float) -> float:
    return log_prob / math.pow(length, length_penalty)


def _keep(cache: Cache, rows: list[int], device: torch.device) -> None:
    if rows:
        cache.keep(torch.tensor(rows, device=device))
