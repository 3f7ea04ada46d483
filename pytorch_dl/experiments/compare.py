"""A/B comparison of systems by the scores of what they wrote for the same sources: which differ by more than luck?

Scores go in, a `Comparison` comes out, with the interval of each score and a paired test of each system against the
first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytorch_dl.errors import ConfigError, DataError
from pytorch_dl.scoring.bootstrap import RESAMPLES, Interval, intervals
from pytorch_dl.scoring.randomisation import SEED, TRIALS, p_value
from pytorch_dl.scoring.score import Score

ONE_SEED = "this speaks of these trained systems only, not of the settings, whose order another seed may turn"
LEVEL = 0.05  # chance that luck alone makes any of the systems look different from the first, in one metric


@dataclass(frozen=True)
class SystemScore:
    """One system in one metric; the p-value is that of its difference from the first system, which has none."""

    system: str
    metric: str
    value: float
    interval: Interval | None
    p_value: float | None
    lower_is_better: bool = False


@dataclass(frozen=True)
class Comparison:
    """The scores of all systems, metric by metric with the first system first, and the signature of each metric."""

    scores: Sequence[SystemScore]
    signatures: Mapping[str, str]

    @property
    def level(self) -> float:
        """Below this p-value a difference is shown: LEVEL, shared by all systems that are compared (Bonferroni)."""
        return LEVEL / max(1, sum(score.metric == self.scores[0].metric for score in self.scores) - 1)

    def verdicts(self) -> list[str]:
        """One sentence for each system but the first and each metric."""
        return [self._verdict(first, other) for first, other in self._pairs()]

    def lines(self) -> list[str]:
        """The table, the verdicts, and the signatures that they rest on."""
        return [*self.findings(), *(f"{metric}: {signature}" for metric, signature in self.signatures.items())]

    def findings(self) -> list[str]:
        """The table and the verdicts."""
        width = max(len("system"), *(len(score.system) for score in self.scores))
        column = max(len("metric"), *(len(score.metric) for score in self.scores))
        found = [f"{'system':<{width}}  {'metric':<{column}} {'score':>6}   {'95 % interval':<16} p"]
        for score in self.scores:
            interval = f"{score.interval.low:.2f} to {score.interval.high:.2f}" if score.interval else ""
            p = "" if score.p_value is None else f"{score.p_value:.4f}"
            row = f"{score.system:<{width}}  {score.metric:<{column}} {score.value:>6.2f}   {interval:<16} {p}"
            found.append(row.rstrip())
        found += ["", *self.verdicts()]
        if self.level < LEVEL:
            found.append(f"a difference counts below p = {self.level:.4f}: {LEVEL} over all comparisons (Bonferroni)")
        return found

    def to_json(self) -> list[dict[str, Any]]:
        """One object for each system but the first and each metric."""
        return [
            {
                "system": other.system,
                "first": first.system,
                "metric": other.metric,
                "value": other.value,
                "low": other.interval.low if other.interval else None,
                "high": other.interval.high if other.interval else None,
                "difference": other.value - first.value,
                "p_value": other.p_value,
                "level": self.level,
                "verdict": self._word(first, other) or "no difference shown",
                "signature": self.signatures[other.metric],
            }
            for first, other in self._pairs()
        ]

    def _pairs(self) -> list[tuple[SystemScore, SystemScore]]:
        firsts = {score.metric: score for score in self.scores if score.p_value is None}
        return [(firsts[score.metric], score) for score in self.scores if score.p_value is not None]

    def _word(self, first: SystemScore, other: SystemScore) -> str | None:
        """Whether the other is better or worse; None where no difference is shown."""
        assert other.p_value is not None
        if other.p_value >= self.level:
            return None
        return "better" if (other.value > first.value) != other.lower_is_better else "worse"

    def _verdict(self, first: SystemScore, other: SystemScore) -> str:
        assert other.p_value is not None
        difference = other.value - first.value
        if word := self._word(first, other):
            size = f"{abs(difference):.2f} {other.metric}"
            return f"{other.system} is {word} than {first.system} by {size} (p = {_p(other.p_value)})"
        return (
            f"no difference shown between {other.system} and {first.system} in {other.metric} "
            f"({difference:+.2f}, p = {_p(other.p_value)})"
        )


def compare(systems: Mapping[str, Sequence[Score]], *, trials: int = TRIALS, seed: int = SEED) -> Comparison:
    """Test each system's scores against the first system's; all have the same metrics, of the same lines.

    Each test draws `trials` ways to swap the lines of the two. Raises DataError when the numbers of lines differ,
    ConfigError for fewer than two systems or numbers that make no sense.
    """
    _check(systems, trials=trials, seed=seed)
    first_name, first = next(iter(systems.items()))
    bounds = {name: intervals(scores, seed=seed) for name, scores in systems.items()}
    scores = [
        SystemScore(
            name,
            base.name,
            theirs[place].value,
            bounds[name][place],
            None if name == first_name else p_value(base, theirs[place], trials=trials, seed=seed),
            base.lower_is_better,
        )
        for place, base in enumerate(first)
        for name, theirs in systems.items()
    ]
    drawn = f"ar:{trials}|bs:{RESAMPLES}|seed:{seed}"
    return Comparison(scores, {score.name: f"{score.signature}|{drawn}" for score in first})


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def _check(systems: Mapping[str, Sequence[Score]], *, trials: int, seed: int) -> None:
    if len(systems) < 2:
        raise ConfigError(f"a comparison of {len(systems)} system", fix="give two systems or more")
    if trials < 1:
        raise ConfigError(f"trials is {trials}", fix="set trials to at least 1; 10000 is usual")
    if seed < 0:
        raise ConfigError(f"seed is {seed}", fix="set seed to at least 0")
    (first, wanted), *others = systems.items()
    for name, scores in others:
        if (metrics := [s.name for s in scores]) != [s.name for s in wanted]:
            raise ConfigError(f"{name} has the scores {metrics}", fix=f"give those of {first}, in the same order")
        for ours, theirs in zip(wanted, scores, strict=True):
            if len(ours.rows) != len(theirs.rows):
                raise DataError(
                    f"{name} has {len(theirs.rows):,} translations, {first} {len(ours.rows):,}",
                    fix="give translations of the same sources, in the same order",
                )
