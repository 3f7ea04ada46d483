"""What may not come next: each rule sets log-probabilities to -inf, before any strategy chooses.

A score is what the model says, whatever was banned: the others are not raised for it. A prefix that is asked for comes
whatever the other rules say.
Shapes: B sentences, K beams, V vocabulary, T tokens so far.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from pytorch_dl.generation.beams import Beams, Bools, Ints
from pytorch_dl.generation.hypothesis import Request

Rule = Callable[[Tensor, Beams, Sequence[Request]], None]  # (log-probabilities (B, K, V) to change, beams, sentences)


def never(ids: Collection[int], device: torch.device) -> Rule:
    """These tokens do not come out at all."""
    places = torch.tensor(sorted(ids), dtype=torch.long, device=device)

    def rule(log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> None:
        log_probs.index_fill_(-1, places, -torch.inf)

    return rule


def no_early_end(min_length: int, eos_id: int) -> Rule:
    """An output has at least `min_length` tokens, eos included, where its limit lets it."""

    def rule(log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> None:
        early = beams.lengths + 1 < np.minimum(min_length, beams.limits)
        if early.all():  # nothing to tell the device
            log_probs[..., eos_id] = -torch.inf
        elif early.any():
            log_probs[torch.from_numpy(early).to(log_probs.device), :, eos_id] = -torch.inf

    return rule


def no_repeat(n: int) -> Rule:
    """No run of n tokens comes twice."""

    def rule(log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> None:
        for length in np.unique(beams.lengths):
            if length < n:
                continue
            rows = np.flatnonzero(beams.lengths == length)
            prefixes = beams.prefixes[rows, :, :length]  # (R, K, T)
            runs = np.lib.stride_tricks.sliding_window_view(prefixes, n, axis=2)  # (R, K, T - n + 1, n)
            last = prefixes[:, :, None, length - n + 1 :]  # (R, K, 1, n - 1): what the next token would complete
            again = (runs[..., :-1] == last).all(-1)
            row, beam, place = again.nonzero()
            _ban(log_probs, rows[row], beam, runs[row, beam, place, -1])

    return rule


def no_banned_run(log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> None:
    """No output holds what its request bans."""
    for row, request in enumerate(requests):
        for run in request.banned:
            *before, last = run
            _ban_where(log_probs, row, _ends_with(beams, row, before), last)


def prefix_first(log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> Callable[[], None]:
    """Every output begins as its request says: to be called before the other rules, and the result after them."""
    asked = [(row, request.prefix) for row, request in enumerate(requests) if request.prefix]
    wanted = [(row, prefix[beams.lengths[row]]) for row, prefix in asked if beams.lengths[row] < len(prefix)]
    kept = [log_probs[row, :, token].clone() for row, token in wanted]  # (K,) each

    def rule() -> None:
        for (row, token), values in zip(wanted, kept, strict=True):
            log_probs[row] = -torch.inf
            log_probs[row, :, token] = values

    return rule


def no_end_before_required(eos_id: int) -> Rule:
    """An output ends when it holds all that its request requires."""

    def rule(log_probs: Tensor, beams: Beams, requests: Sequence[Request]) -> None:
        for row, request in enumerate(requests):
            for beam in range(beams.tokens.shape[1] if request.required else 0):
                if lacks(beams.prefix(row, beam), request.required):
                    log_probs[row, beam, eos_id] = -torch.inf

    return rule


def met(ids: Sequence[int], required: Sequence[Sequence[int]]) -> int:
    """How many of the required tokens a prefix has: of the runs that it holds, and of one that it is writing."""
    whole = [run for run in required if _holds(ids, run)]
    begun = [_begun(ids, run) for run in required if run not in whole]
    return sum(map(len, whole)) + max(begun, default=0)


def lacks(ids: Sequence[int], required: Sequence[Sequence[int]]) -> bool:
    """Whether there is a required run that the prefix does not hold."""
    return any(not _holds(ids, run) for run in required)


def wanted(ids: Sequence[int], required: Sequence[Sequence[int]]) -> set[int]:
    """The tokens that begin a required run which the prefix lacks, or go on with it."""
    absent = [run for run in required if not _holds(ids, run)]
    return {run[0] for run in absent} | {run[_begun(ids, run)] for run in absent}


def _holds(ids: Sequence[int], run: Sequence[int]) -> bool:
    return any(list(ids[place : place + len(run)]) == list(run) for place in range(len(ids) - len(run) + 1))


def _begun(ids: Sequence[int], run: Sequence[int]) -> int:
    """The longest beginning of a run that the prefix ends with."""
    lengths = range(min(len(ids), len(run) - 1), 0, -1)
    return next((n for n in lengths if list(ids[-n:]) == list(run[:n])), 0)


def _ends_with(beams: Beams, row: int, run: Sequence[int]) -> Bools:
    """Which beams of a row end with a run of tokens, (K,)."""
    length = int(beams.lengths[row])
    if len(run) > length:
        return np.zeros(beams.tokens.shape[1], dtype=np.bool_)
    same: Bools = (beams.prefixes[row, :, length - len(run) : length] == np.array(run, dtype=np.int64)).all(-1)
    return same


def _ban_where(log_probs: Tensor, row: int, beams: Bools, token: int) -> None:
    chosen = np.flatnonzero(beams)
    _ban(log_probs, np.full(len(chosen), row), chosen, np.full(len(chosen), token))


def _ban(log_probs: Tensor, rows: Ints, beams: Ints, tokens: Ints) -> None:
    index = tuple(torch.from_numpy(part).to(log_probs.device) for part in (rows, beams, tokens))
    log_probs[index] = -torch.inf
