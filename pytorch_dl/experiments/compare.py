"""A/B comparison of systems by what they wrote: BLEU and chrF with intervals, and whether a difference is shown.

Translations go in, a `Comparison` comes out. Scores, intervals and p-values are sacrebleu's: the paired approximate
randomisation test (Riezler and Maxwell 2005) of each system against the first, and the 95 % interval of its bootstrap.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytorch_dl.errors import ConfigError, DataError

LEVEL = 0.05  # chance that luck alone makes any of the systems look different from the first, in one metric
RESAMPLES = 1000
SEED = "SACREBLEU_SEED"  # sacrebleu takes its seed from nowhere else


@dataclass(frozen=True)
class SystemScore:
    """One system in one metric; the p-value is that of its difference from the first system, which has none."""

    system: str
    metric: str
    value: float
    mean: float
    """Mean over the bootstrap's resamples."""
    margin: float
    """Half the width of the 95 % interval around the mean."""
    p_value: float | None


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
        firsts = {score.metric: score for score in self.scores if score.p_value is None}
        return [self._verdict(firsts[score.metric], score) for score in self.scores if score.p_value is not None]

    def lines(self) -> list[str]:
        """The table, the verdicts and what they rest on."""
        width = max(len("system"), *(len(score.system) for score in self.scores))
        found = [f"{'system':<{width}}  {'metric':<6} {'score':>6}   {'95 % interval':<15} p"]
        for score in self.scores:
            interval = f"{score.mean - score.margin:.2f} to {score.mean + score.margin:.2f}"
            p = "" if score.p_value is None else f"{score.p_value:.4f}"
            found.append(
                f"{score.system:<{width}}  {score.metric:<6} {score.value:>6.2f}   {interval:<15} {p}".rstrip()
            )
        found += ["", *self.verdicts()]
        if self.level < LEVEL:
            found.append(f"a difference counts below p = {self.level:.4f}: {LEVEL} over all comparisons (Bonferroni)")
        return [*found, *(f"{metric}: {signature}" for metric, signature in self.signatures.items())]

    def _verdict(self, first: SystemScore, other: SystemScore) -> str:
        assert other.p_value is not None
        difference = other.value - first.value
        if other.p_value >= self.level:
            return (
                f"no difference shown between {other.system} and {first.system} in {other.metric} "
                f"({difference:+.2f}, p = {_p(other.p_value)})"
            )
        word = "better" if difference > 0 else "worse"
        size = f"{abs(difference):.2f} {other.metric}"
        return f"{other.system} is {word} than {first.system} by {size} (p = {_p(other.p_value)})"


def compare_translations(
    references: Sequence[str], systems: Mapping[str, Sequence[str]], *, trials: int = 10_000, seed: int = 12345
) -> Comparison:
    """Score what each system wrote for the same sources, and test each system against the first.

    `trials` shuffles are drawn for each test. The defaults are those of sacrebleu's command line. Raises DataError when
    the numbers of lines differ or are 0, ConfigError for fewer than two systems or numbers that make no sense.
    """
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    _check(references, systems, trials=trials, seed=seed)
    with _seeded(seed):
        signatures, results = PairedTest(
            [(name, list(lines)) for name, lines in systems.items()],
            {"BLEU": BLEU(), "chrF2": CHRF()},
            [list(references)],
            test_type="ar",
            n_samples=trials,
            n_ar_confidence=RESAMPLES,
        )()
    first = next(iter(systems.values()))
    least = {name: least_p_value(first, lines) for name, lines in systems.items()}
    scores = [
        SystemScore(name, metric, r.score, float(r.mean), float(r.ci), _p_value(r, results[metric][0], least[name]))
        for metric in signatures
        for name, r in zip(results["System"], results[metric], strict=True)
    ]
    return Comparison(scores, {metric: str(signature) for metric, signature in signatures.items()})


def least_p_value(first: Sequence[str], second: Sequence[str]) -> float:
    """What shuffling can show at best: of n differing lines, all 2^n swaps are equally likely, and two are extreme."""
    differing = sum(a.split() != b.split() for a, b in zip(first, second, strict=True))
    return min(1.0, 2.0 ** (1 - differing))


def _p_value(result: Any, first: Any, least: float) -> float | None:
    """sacrebleu's, corrected: it does not count shuffles that equal the observed difference.

    So it gives a p-value near 0 to two systems that differ in one line, or in none.
    """
    if result.p_value is None:
        return None
    return 1.0 if result.score == first.score else max(float(result.p_value), least)


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def _check(references: Sequence[str], systems: Mapping[str, Sequence[str]], *, trials: int, seed: int) -> None:
    if len(systems) < 2:
        raise ConfigError(f"a comparison of {len(systems)} system", fix="give two systems or more")
    if trials < 1:
        raise ConfigError(f"trials is {trials}", fix="set trials to at least 1; 10000 is usual")
    if seed < 1:
        raise ConfigError(f"seed is {seed}", fix="set seed to at least 1: sacrebleu draws at random for 0")
    if not references:
        raise DataError("there are 0 references", fix="give a reference for each line")
    for name, lines in systems.items():
        if len(lines) != len(references):
            raise DataError(
                f"{name} has {len(lines):,} translations for {len(references):,} references",
                fix="give exactly one translation per reference, in the same order",
            )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    before = os.environ.get(SEED)
    os.environ[SEED] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ[SEED]
        else:
            os.environ[SEED] = before
