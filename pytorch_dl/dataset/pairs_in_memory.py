"""Pairs of texts that are no file: a list, or anything else that gives the same items each time it is gone through.

An item is a pair (source, target), or a record with named fields, as the rows of a Hugging Face `Dataset` are.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pytorch_dl.dataset.records import Record, pairs_of_records
from pytorch_dl.dataset.text_files import TextPair, blank_side
from pytorch_dl.dataset.text_pair import Columns, Fault
from pytorch_dl.errors import ConfigError, DataError


@dataclass(frozen=True)
class PairsInMemory:
    """A PairStream of such items; `columns` name the fields of records, where they are not src and tgt or the like."""

    items: Iterable[object]
    name: str = "pairs in memory"
    columns: Columns | None = None
    weight: float = 1.0
    on_blank: Literal["error", "drop"] = "error"
    dropped: int = field(default=0, init=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.items, Iterator):
            raise ConfigError(
                f"{self.name}: a {type(self.items).__name__} can be gone through once only", fix="give a list of it"
            )

    def __iter__(self) -> Iterator[TextPair]:
        """Yield the pairs; the first item that is none is a DataError, and so is a blank side unless those drop."""
        kept = dropped = 0
        for item in self._items():
            if isinstance(item, Fault):
                raise item
            if blank_side(item) is None:
                kept += 1
                yield item
            elif self.on_blank == "drop":
                dropped += 1
            else:
                raise DataError(
                    f"the {blank_side(item)} is blank", where=f"{self.name}:{item.line}", fix="leave such pairs out"
                )
        object.__setattr__(self, "dropped", dropped)  # what a pass tells beside its pairs; all else stays frozen
        if not kept:
            raise DataError("no pair is left", where=self.name, fix="give pairs of texts")

    def fingerprint(self) -> str:
        """Hex SHA-256 over the pairs, which are read once for it."""
        total = hashlib.sha256(json.dumps(["in memory", self.on_blank]).encode())
        for pair in self._items():
            if isinstance(pair, Fault):
                raise pair
            total.update(json.dumps([pair.src, pair.tgt]).encode())
        return total.hexdigest()

    def _items(self) -> Iterator[TextPair | Fault]:
        rows = ((number, _record(item, where=f"{self.name}:{number}")) for number, item in enumerate(self.items, 1))
        return pairs_of_records(rows, name=self.name, columns=self.columns)


def _record(item: object, *, where: str) -> Record | Fault:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2:
        return {"src": item[0], "tgt": item[1]}
    what = f"expected a pair of texts or a record with named fields, got {type(item).__name__}"
    return Fault("values", what, where=where, fix="give (source, target), or {'src': source, 'tgt': target}")
