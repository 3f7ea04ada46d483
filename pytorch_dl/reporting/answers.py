"""What a run translated at its end: source, reference and translation of each line, and how far they are apart."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pytorch_dl.evaluation.breakdown import unit_of
from pytorch_dl.evaluation.metrics import chrf
from pytorch_dl.plain_files import strangeness


class Answer(NamedTuple):
    """One line of the evaluated text."""

    source: str
    reference: str
    translation: str


@dataclass(frozen=True)
class Answers:
    """The evaluated text with its translations."""

    lines: Sequence[Answer]

    @cached_property
    def chrf(self) -> list[float]:
        """Of each line, as a text of its own."""
        score = chrf([line.translation for line in self.lines], [line.reference for line in self.lines])
        return [float(value) for value in score.values(score.rows)]

    def worst(self, count: int) -> list[tuple[float, Answer]]:
        """The wrong answers that are furthest from their references, by chrF."""
        found = [
            (value, place) for place, value in enumerate(self.chrf) if self.lines[place][1] != self.lines[place][2]
        ]
        return [(value, self.lines[place]) for value, place in sorted(found)[:count]]

    @cached_property
    def unit(self) -> str:
        """What lengths are counted in."""
        return unit_of([line.source for line in self.lines])

    def lengths(self, side: int) -> np.ndarray:
        """Of sources (0), references (1) or translations (2), in words or characters."""
        return np.array([len(line[side].split() if self.unit == "words" else line[side]) for line in self.lines])

    def is_of_the_same_text(self, other: "Answers") -> bool:
        """Whether both have the same sources and references, in any order."""
        return Counter(line[:2] for line in self.lines) == Counter(line[:2] for line in other.lines)


def read_answers(path: Path) -> Answers | None:
    """Those of a *.compared.tsv; None where there are none."""
    if strangeness(path):
        return None
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    lines = [Answer(*row[1:]) for row in rows[1:] if len(row) == 4]
    return Answers(lines) if lines else None
