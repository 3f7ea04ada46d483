"""From a list of sources to a list of hypotheses: batching by length, limits, and the order restored.

Token ids go in and come out; N sources give N results. Nothing is cut silently: see `Hypothesis.source_cut`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.search import CacheT, Hypothesis, StepModel, beam_search, greedy


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How outputs are searched for; raises ConfigError when a value makes no sense."""

    beam_size: int = 5
    """Prefixes kept alive per sentence; 1 is greedy search."""
    length_penalty: float = 1.0
    """Exponent of the length that a log-probability is divided by: 0 favours short outputs, 1 takes the mean."""
    n_best: int = 1
    """Hypotheses returned per sentence, at most `beam_size`."""
    max_length_ratio: float = 3.0
    """An output has at most `max_length_ratio` * source tokens + `max_length_offset` tokens, eos included."""
    max_length_offset: int = 20
    """See `max_length_ratio`."""

    def __post_init__(self) -> None:
        _require(self.beam_size >= 1, "beam_size", self.beam_size, "at least 1")
        _require(0 <= self.length_penalty <= 10, "length_penalty", self.length_penalty, "a number from 0 to 10")
        _require(self.n_best >= 1, "n_best", self.n_best, "at least 1")
        _require(self.n_best <= self.beam_size, "n_best", self.n_best, f"at most beam_size ({self.beam_size})")
        _require(
            0 <= self.max_length_ratio <= 1000, "max_length_ratio", self.max_length_ratio, "a number from 0 to 1000"
        )
        _require(self.max_length_offset >= 1, "max_length_offset", self.max_length_offset, "at least 1")

    def max_length(self, source_length: int) -> int:
        """The most tokens, eos included, for a source of that many tokens."""
        return int(self.max_length_ratio * source_length) + self.max_length_offset


def generate(
    model: StepModel[CacheT],
    sources: Sequence[Sequence[int]],
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
    """Search the best outputs of each source, given without eos; results stand in the order of the sources.

    An empty source has the empty output, without asking the model. A source of more than `max_positions` tokens with
    eos is cut to that and its hypotheses say so. A batch holds at most `max_tokens_per_batch` source tokens, padding
    included and counted once per beam, but at least one sentence. `progress` is told the number of sentences just
    done. pad, bos and `banned_ids` never come out. The model must be in evaluation mode.
    """
    assert not getattr(model, "training", False), "call model.eval() first: dropout would make the outputs random"
    assert max_positions >= 2, f"max_positions {max_positions} has no room for a token and eos"
    _require(max_tokens_per_batch >= 1, "max_tokens_per_batch", max_tokens_per_batch, "at least 1")
    banned = {pad_id, bos_id, *banned_ids} - {eos_id}
    cut = [list(source[: max_positions - 1]) for source in sources]
    results = [[Hypothesis([], 0.0, 0.0, finished=True)] for _ in sources]
    filled = [index for index, source in enumerate(cut) if source]
    if progress and len(filled) < len(sources):
        progress(len(sources) - len(filled))
    for batch in _batches(filled, cut, max_tokens_per_batch // settings.beam_size):
        src = _padded([[*cut[index], eos_id] for index in batch], pad_id, device)
        limits = [min(settings.max_length(len(cut[index])), max_positions) for index in batch]
        found = _search(model, src, settings, bos_id=bos_id, eos_id=eos_id, banned_ids=banned, max_length=limits)
        for index, hypotheses in zip(batch, found, strict=True):
            was_cut = len(cut[index]) < len(sources[index])
            results[index] = [dataclasses.replace(hypothesis, source_cut=was_cut) for hypothesis in hypotheses]
        if progress:
            progress(len(batch))
    return results


def _search(
    model: StepModel[CacheT],
    src: Tensor,
    settings: SearchSettings,
    *,
    bos_id: int,
    eos_id: int,
    banned_ids: Iterable[int],
    max_length: Sequence[int],
) -> list[list[Hypothesis]]:
    penalty = settings.length_penalty
    with torch.inference_mode():
        if settings.beam_size == 1:
            best = greedy(
                model,
                src,
                bos_id=bos_id,
                eos_id=eos_id,
                banned_ids=banned_ids,
                max_length=max_length,
                length_penalty=penalty,
            )
            return [[hypothesis] for hypothesis in best]
        return beam_search(
            model,
            src,
            bos_id=bos_id,
            eos_id=eos_id,
            banned_ids=banned_ids,
            max_length=max_length,
            beam_size=settings.beam_size,
            length_penalty=penalty,
            n_best=settings.n_best,
        )


def _batches(indices: list[int], sources: list[list[int]], max_tokens: int) -> Iterator[list[int]]:
    """Groups of sources of similar length, longest first so that a lack of memory shows at once."""
    batch: list[int] = []
    for index in sorted(indices, key=lambda index: -len(sources[index])):
        if batch and (len(batch) + 1) * (len(sources[batch[0]]) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(rows: list[list[int]], pad_id: int, device: torch.device | str) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=device)  # (B, S)


def _require(holds: bool, name: str, value: float, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value}", fix=f"set {name} to {expected}")
