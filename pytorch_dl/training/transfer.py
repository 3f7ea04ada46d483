"""The weights of one model given to another: tensors where names and shapes agree, and rows where their tokens do.

A row of an embedding, or of the output projection, is of a token: it goes to the same token of the other vocabulary,
whatever its id there; padding, begin, end and unknown are told by their role. A row of learned positions goes to the
same position. All else is taken whole or not at all. Matrices that are tied in one model and separate in the other are
told by what they serve.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytorch_dl.dataset.tokenizer import Tokenizer, TokenizerPair
from pytorch_dl.training import checkpoint as ckpt

SRC, TGT, OUT = "src_embedding.weight", "tgt_embedding.weight", "output.weight"
POSITIONS = ("src_positions.weight", "tgt_positions.weight")
_BY_ROWS = (SRC, TGT, OUT, *POSITIONS)


@dataclass(frozen=True)
class Taken:
    """What became of a tensor of the model."""

    name: str
    taken: int
    """Of its numbers, those that are now the other model's; all others are as they were."""
    size: int
    note: str = ""
    """Why not all were taken, and from which tensor, where that has another name."""


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor of the model, and tensors of the other one that have no place in it."""

    tensors: Sequence[Taken]
    unused: Sequence[str]

    @property
    def taken(self) -> int:
        """How many numbers were taken."""
        return sum(found.taken for found in self.tensors)

    def lines(self) -> Iterator[str]:
        """One for each tensor that was not simply taken, and one for each that has no place."""
        for found in self.tensors:
            how = "taken" if found.taken == found.size else "taken in part" if found.taken else "not taken"
            if found.note:
                yield f"{how}: {found.name}: {found.note}"
        for name in self.unused:
            yield f"without a place: {name} of the other model"

    def summary(self) -> str:
        """The counts."""
        whole = sum(found.taken == found.size for found in self.tensors)
        left = sum(not found.taken for found in self.tensors)
        size = sum(found.size for found in self.tensors)
        return (
            f"{whole:,} tensors whole, {len(self.tensors) - whole - left:,} in part, {left:,} not: {self.taken:,} of "
            f"{size:,} numbers; {len(self.unused):,} of the other model have no place"
        )

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {"summary": self.summary(), "tensors": [asdict(one) for one in self.tensors], "unused": [*self.unused]}


class _Rows(NamedTuple):
    """What a matrix may take rows from: a tensor of the other model, and (row here, row there)."""

    name: str
    pairs: Sequence[tuple[int, int]]
    of: str


def transfer(model: nn.Module, tokenizers: TokenizerPair, weights: Mapping[str, Tensor], of: TokenizerPair) -> Transfer:
    """Give a model and its tokenizers the weights of another one, whose tokenizers are `of`, as far as they fit."""
    own, used = ckpt.model_weights(model), set[str]()
    rows = dict(_matrices(own, tokenizers, weights, of))
    new: dict[str, Tensor] = {}
    found: list[Taken] = []
    for name, weight in own.items():
        sources = [source for source in rows.get(name, ()) if weights[source.name].shape[1:] == weight.shape[1:]]
        if sources:
            new[name], taken, names = _filled(weight, sources, weights)
            used.update(names)
            note = _note(name, names, taken=taken, rows=len(weight), of=sources[0].of)
            found.append(Taken(name, taken * weight[0].numel(), weight.numel(), note))
        elif name in weights and weights[name].shape == weight.shape:
            new[name] = weights[name].to(weight.dtype)
            found.append(Taken(name, weight.numel(), weight.numel()))
        else:
            new[name] = weight
            there = [
                weights[one] for one in ([source.name for source in rows.get(name, ())] or [name]) if one in weights
            ]
            found.append(Taken(name, 0, weight.numel(), _why_not(weight, there)))
    transferred = Transfer(found, [name for name in weights if name not in own and name not in used])
    if transferred.taken:
        ckpt.load_weights(model, new, where="the other model")
    return transferred


def could_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether any tensor fits, of a model with any vocabulary."""
    widths = {weights[name].shape[1:] for name in (SRC, TGT, OUT) if name in weights}
    return any(
        weight.shape[1:] in widths
        if name in (SRC, TGT, OUT)
        else name in weights and _fits(name, weight, weights[name])
        for name, weight in own.items()
    )


def common_tokens(here: Tokenizer, there: Tokenizer) -> list[tuple[int, int]]:
    """(id here, id there) of the tokens that both vocabularies have."""
    if here.fingerprint() == there.fingerprint():
        return [(id, id) for id in range(here.vocab_size)]
    roles = [(one.pad_id, one.bos_id, one.eos_id, one.unk_id) for one in (here, there)]
    special, ids = [*zip(*roles, strict=True)], there.ids()
    return special + [
        (id, ids[token])
        for token, id in here.ids().items()
        if token in ids and id not in roles[0] and ids[token] not in roles[1]
    ]


def _fits(name: str, here: Tensor, there: Tensor) -> bool:
    return here.shape[1:] == there.shape[1:] if name in _BY_ROWS else here.shape == there.shape


def _matrices(
    own: Mapping[str, Tensor], tokenizers: TokenizerPair, weights: Mapping[str, Tensor], of: TokenizerPair
) -> Iterator[tuple[str, list[_Rows]]]:
    """The matrices that are taken row by row, each with where its rows may come from, in this order."""
    here, there = _serving(own), _serving(weights)
    for name in dict.fromkeys(here.values()):
        ends: dict[str, str] = {}  # that matrices of the other model serve there
        for end in here:
            if here[end] == name and there[end] in weights:
                ends.setdefault(there[end], end)
        rows = {other: common_tokens(_side(tokenizers, end), _side(of, end)) for other, end in ends.items()}
        yield name, [_Rows(other, pairs, "tokens that both vocabularies have") for other, pairs in rows.items()]
    for name in POSITIONS:
        if name in own and name in weights:
            both = range(min(len(own[name]), len(weights[name])))
            yield name, [_Rows(name, [*zip(both, both, strict=True)], "positions that both models have")]


def _serving(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The matrix of each end: tied ones are one tensor, under the first of their names.

    That of the output comes first: a tied matrix becomes like it (Press and Wolf 2017).
    """
    target = TGT if TGT in weights else SRC
    return {"output": OUT if OUT in weights else target, "target": target, "source": SRC}


def _side(tokenizers: TokenizerPair, end: str) -> Tokenizer:
    return tokenizers.src if end == "source" else tokenizers.tgt


def _filled(weight: Tensor, sources: Sequence[_Rows], weights: Mapping[str, Tensor]) -> tuple[Tensor, int, list[str]]:
    """A copy of the matrix with the rows that there are, how many, and from where: the first source that has one."""
    new, left, names = weight.cpu().clone(), set(range(len(weight))), []
    for name, pairs, _ in sources:
        other = weights[name]
        kept = [(here, there) for here, there in pairs if here in left and there < len(other)]
        if kept:
            here, there = (torch.tensor(rows) for rows in zip(*kept, strict=True))
            new[here] = other[there].to(new.dtype)
            left.difference_update(row for row, _ in kept)
            names.append(name)
    return new, len(weight) - len(left), names


def _note(name: str, names: Sequence[str], *, taken: int, rows: int, of: str) -> str:
    origin = "" if [*names] == [name] else f" from {' and '.join(names)}"
    if taken == rows:
        return origin and f"all rows{origin}"
    return f"{taken:,} of {rows:,} rows{origin}, of {of}"


def _why_not(weight: Tensor, there: Sequence[Tensor]) -> str:
    if not there:
        return "the other model has no such tensor"
    return f"its shape is {tuple(weight.shape)}, that of the other model {tuple(there[0].shape)}"
