"""From many requests to their hypotheses: who is searched for together, limits, and the order restored.

Token ids go in and come out; N requests give N results. Nothing is cut silently: see `Hypothesis.source_cut`.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch

from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.hypothesis import Hypothesis, Request
from pytorch_dl.generation.search import IDLE_SHARE, CacheT, Entry, Search, Special, StepModel
from pytorch_dl.generation.settings import SearchSettings


def generate(
    model: StepModel[CacheT],
    requests: Sequence[Request],
    settings: SearchSettings,
    *,
    pad_id: int,
    bos_id: int,
    eos_id: int,
    banned_ids: Iterable[int],
    max_positions: int,
    max_tokens_per_batch: int,
    device: torch.device | str,
    progress: Callable[[int], None] | None = None,
) -> list[list[Hypothesis]]:
    """Search the best outputs of each request; results stand in the order of the requests.

    An empty source has the empty output, without asking the model. A source of more than `max_positions` tokens with
    eos is cut to that and its hypotheses say so. A batch holds at most `max_tokens_per_batch` source tokens, padding
    included and counted once per beam, but at least one sentence. `progress` is told the number of sentences just
    done. pad, bos and `banned_ids` never come out. The model must be in evaluation mode.
    """
    assert not getattr(model, "training", False), "call model.eval() first: dropout would make the outputs random"
    assert max_positions >= 2, f"max_positions {max_positions} has no room for a token and eos"
    if max_tokens_per_batch < 1:
        raise ConfigError(f"max_tokens_per_batch is {max_tokens_per_batch}", fix="set it to at least 1")
    if any(request.required for request in requests):
        settings = dataclasses.replace(settings, scored=True)  # to choose among what holds as much of them
    special = Special(pad_id, bos_id, eos_id, frozenset({pad_id, bos_id, *banned_ids} - {eos_id}))
    results = [[Hypothesis([], 0.0, 0.0, finished=True)] for _ in requests]
    waiting = _longest_first(requests, settings, max_positions)
    if progress and len(waiting) < len(requests):
        progress(len(requests) - len(waiting))
    search = Search(model, settings, special, device=device)
    with torch.inference_mode():
        while waiting or len(search):
            if count := _how_many_enter(waiting, search.entries, max_tokens_per_batch // settings.beams):
                search.enter([waiting.popleft() for _ in range(count)])
            ended = search.step()
            for entry, found in ended:
                was_cut = len(entry.request.source) < len(requests[entry.place].source)
                results[entry.place] = [dataclasses.replace(hypothesis, source_cut=was_cut) for hypothesis in found]
            if progress and ended:
                progress(len(ended))
    return results


def _longest_first(requests: Sequence[Request], settings: SearchSettings, max_positions: int) -> deque[Entry]:
    """Those that have a source, the longest first, so that a lack of memory shows at once."""
    entries = []
    for place, request in enumerate(requests):
        cut = dataclasses.replace(request, source=request.source[: max_positions - 1])
        limit = settings.max_length(len(cut.source)) + len(request.prefix)
        if request.source:
            entries.append(Entry(place, cut, min(limit, max_positions)))
    return deque(sorted(entries, key=lambda entry: -len(entry.request.source)))


def _how_many_enter(waiting: Sequence[Entry], present: Sequence[Entry], max_tokens: int) -> int:
    """As many as the budget of padded source tokens has room for; none while they would be few."""
    if not waiting:
        return 0
    width = 1 + max(len(entry.request.source) for entry in [*present, waiting[0]])
    rows = max(1, max_tokens // width)
    free = rows - len(present)
    return min(free, len(waiting)) if free * IDLE_SHARE >= rows else 0
