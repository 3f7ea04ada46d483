"""Does an exported model compute what the model does? Compared at each export, before anything is left on disk.

Two things are compared on the same pairs: the log-probability of each target token, and what greedy search writes.
Where the outputs of two exact engines part, the tokens in question must be equally likely, up to the tolerance.

Shapes: B pairs, T target tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pytorch_dl.dataset.tokenizer import TokenizerPair
from pytorch_dl.errors import CheckpointError
from pytorch_dl.export.pairs import Pairs
from pytorch_dl.generation.generate import generate
from pytorch_dl.generation.hypothesis import Request
from pytorch_dl.generation.settings import SearchSettings
from pytorch_dl.models.optimized_transformer import OptimizedTransformer
from pytorch_dl.models.reader import Reader

TOLERANCE = 1e-3  # nats, for a token in float32
QUANTIZED_TOLERANCE = 0.5  # nats, in the mean: what no sound quantization comes near
_BATCH = 8
_GREEDY = SearchSettings(beam_size=1)


class Engine(Protocol):
    """Something that runs an exported model on token ids without begin and end marks."""

    def score(self, pairs: Pairs) -> list[list[float]]:
        """The log-probability of each target token, the end mark included."""
        ...

    def write(self, sources: Sequence[Sequence[int]], *, limit: int) -> list[list[int]]:
        """What greedy search writes, at most `limit` tokens, end mark included; pad, bos and unk never come out."""
        ...


@dataclass(frozen=True)
class Parity:
    """How near an engine comes to the model."""

    pairs: int
    tokens: int
    """Target tokens that were scored."""
    largest: float
    """Largest difference of a token's log-probability, in nats."""
    mean: float
    """Mean difference."""
    equal: int
    """Greedy outputs that are the same, token by token."""
    regret: float
    """By how much the likeliest token beat the one that the engine chose, at most, by the model."""
    origin: str
    """Where the pairs are from."""

    def __str__(self) -> str:
        return (
            f"log-probabilities of {self.tokens:,} tokens differ by at most {self.largest:.1e} (mean {self.mean:.1e}); "
            f"{self.equal} of {self.pairs} greedy outputs are the same"
        )


class Reference:
    """What the model itself says of the pairs: computed once, compared with each engine."""

    def __init__(self, model: OptimizedTransformer, tokenizers: TokenizerPair, pairs: Pairs) -> None:
        self.model, self.special, self.pairs = model, tokenizers.tgt, pairs
        longest = max(map(len, pairs.src))
        self.limit = min(_GREEDY.max_length(longest), model.max_seq_len)
        self.scores = [scores for scores, _ in self._scored(pairs.src, pairs.tgt)]
        self.outputs = self._written()

    def compare(self, engine: Engine) -> Parity:
        """Let an engine do the same."""
        theirs = engine.score(self.pairs)
        differences = [
            abs(a - b) for own, other in zip(self.scores, theirs, strict=True) for a, b in zip(own, other, strict=True)
        ]
        outputs = engine.write(self.pairs.src, limit=self.limit)
        other = [place for place, ids in enumerate(outputs) if ids != self.outputs[place]]
        regrets = self._scored([self.pairs.src[place] for place in other], [outputs[place] for place in other])
        return Parity(
            pairs=len(self.pairs),
            tokens=len(differences),
            largest=_largest(differences),
            mean=sum(differences) / len(differences),
            equal=len(outputs) - len(other),
            regret=_largest([regret for _, regret in regrets]),
            origin=self.pairs.origin,
        )

    @torch.inference_mode()
    def _scored(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[float], float]]:
        """The log-probabilities of each target's tokens, and by how much the likeliest ones beat them, at most."""
        pad, bos, eos = self.special.pad_id, self.special.bos_id, self.special.eos_id
        never = [pad, bos, self.special.unk_id]
        for start in range(0, len(sources), _BATCH):
            src = [[*ids, eos] for ids in sources[start : start + _BATCH]]
            labels = [[*ids, eos][: self.model.max_seq_len] for ids in targets[start : start + _BATCH]]
            tgt_in = [[bos, *ids[:-1]] for ids in labels]
            logits = self.model(self._padded(src), self._padded(tgt_in))  # (B, T, V)
            values = logits.float().log_softmax(-1).cpu()
            for row, ids in zip(values, labels, strict=True):
                own = row[: len(ids)].gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)  # (T,)
                row[:, never] = -torch.inf
                counted = min(len(ids), self.limit)  # an output at its limit has no end mark
                yield own.tolist(), float((row[:counted].amax(-1) - own[:counted]).max())

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, rows))
        padded = [[*row, *[self.special.pad_id] * (width - len(row))] for row in rows]
        return torch.tensor(padded, device=next(self.model.parameters()).device)

    def _written(self) -> list[list[int]]:
        found = generate(
            Reader(self.model),
            [Request(source) for source in self.pairs.src],
            SearchSettings(beam_size=1, max_length_ratio=0, max_length_offset=self.limit),
            pad_id=self.special.pad_id,
            bos_id=self.special.bos_id,
            eos_id=self.special.eos_id,
            banned_ids=[self.special.unk_id],
            max_positions=self.model.max_seq_len,
            max_tokens_per_batch=4096,
            device=next(self.model.parameters()).device,
        )
        return [best[0].ids for best in found]


def require_exact(parity: Parity, *, engine: str) -> None:
    """Raise unless a float32 export is the model."""
    if not (parity.largest <= TOLERANCE and parity.regret <= TOLERANCE):
        _refuse(
            f"log-probabilities differ by {parity.largest:.2g}, those of greedy tokens by {parity.regret:.2g}, "
            f"expected at most {TOLERANCE:g}",
            engine,
        )


def require_near(parity: Parity, *, engine: str) -> None:
    """Raise when a quantized export is far from the model."""
    if not parity.mean <= QUANTIZED_TOLERANCE:
        _refuse(
            f"quantized, log-probabilities differ by {parity.mean:.2g} in the mean, expected at most "
            f"{QUANTIZED_TOLERANCE:g}",
            engine,
        )


def _refuse(what: str, engine: str) -> None:
    raise CheckpointError(
        f"the export to {engine} does not compute what the model does, and is not kept: {what}",
        fix="export with --to safetensors, and report this with the config.yaml of the run",
    )


def _largest(values: Sequence[float]) -> float:
    """Not a number where one of them is none."""
    return float(torch.tensor([0.0, *values], dtype=torch.float64).max())
