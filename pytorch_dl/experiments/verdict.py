"""What a comparison of arms came to: a table, the difference of each arm from the first, and a verdict in words.

With two seeds or more an arm is a way to train, and `scoring.seed_variance` tells whether two ways differ by more than
the luck of seeds and lines. With one seed it is a trained system, and the paired test of `compare` tells whether two
systems differ on other lines; what another seed would have made of them, nobody knows then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pytorch_dl.experiments.compare import LEVEL, ONE_SEED, compare
from pytorch_dl.scoring.bootstrap import Interval, intervals
from pytorch_dl.scoring.names import BLEU, CHRF, EXACT_MATCH, TOKEN_ERROR_RATE
from pytorch_dl.scoring.score import Floats, Score
from pytorch_dl.scoring.seed_variance import SeedScores

NOTHING = "no difference shown"
IN_TABLE = (BLEU, CHRF, EXACT_MATCH, TOKEN_ERROR_RATE)  # beside what decides; JSON has all scores
Trained = Mapping[str, Sequence[Sequence[Score]]]  # arm -> seed -> metric
Factors = Mapping[str, Mapping[str, str]]  # setting -> arm -> value


class Contrast(NamedTuple):
    """Two things whose scores are compared, and the weights of the arms in their difference."""

    other: str
    first: str
    where: str
    weights: Floats


@dataclass(frozen=True)
class ArmScore:
    """One arm in one metric: the mean over its seeds, and its interval over seeds and lines."""

    arm: str
    metric: str
    by_seed: Sequence[float]
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """How far something lies from what it is compared with; the intervals of all differences hold together."""

    other: str
    first: str
    where: str
    """What the two are averaged over; nothing for two arms."""
    value: float
    interval: Interval | None
    p_value: float
    word: str
    """better, worse or NOTHING."""

    def sentence(self, metric: str) -> str:
        """The verdict in words."""
        p = f"p = {self.p_value:.2f}" if self.p_value >= 0.01 else f"p = {self.p_value:.4f}"
        p = "p < 0.0001" if self.p_value < 0.0001 else p
        told = f"{self.interval.low:+.2f} to {self.interval.high:+.2f}, {p}" if self.interval else p
        if self.word == NOTHING:
            return f"{NOTHING} between {self.other} and {self.first}{self.where}: {self.value:+.2f} {metric} ({told})"
        size = f"{abs(self.value):.2f} {metric}"
        return f"{self.other} is {self.word} than {self.first}{self.where} by {size} ({told})"


@dataclass(frozen=True)
class Findings:
    """All that was found; the first of the metrics decides."""

    seeds: int
    scores: Sequence[ArmScore]
    differences: Sequence[Difference]
    signatures: Mapping[str, str]
    scattering: Sequence[str]
    """Arms whose seeds lie so far apart that they tell nothing of the others."""
    left_out: Mapping[str, str]
    """Arms that cannot be compared, and why."""

    @property
    def metric(self) -> str:
        """What decides."""
        return self.scores[0].metric

    @property
    def level(self) -> float:
        """Below this p-value a difference is shown: LEVEL, shared by all differences (Bonferroni)."""
        return LEVEL / max(1, len(self.differences))

    def table(self) -> list[list[str]]:
        """A header, and a row for each arm: the deciding metric with its interval, then the others."""
        others = [name for name in IN_TABLE if name in self.signatures and name != self.metric]
        rows = [["arm", "seeds", self.metric, "95 % interval", *others]]
        for arm in dict.fromkeys(score.arm for score in self.scores):
            found = {score.metric: score for score in self.scores if score.arm == arm}
            interval = found[self.metric].interval
            told = f"{interval.low:.2f} to {interval.high:.2f}" if interval else ""
            values = [f"{found[name].value:.2f}" for name in (self.metric, *others)]
            rows.append([arm, str(self.seeds), values[0], told, *values[1:]])
        return rows

    def verdict(self) -> str:
        """The whole in one sentence."""
        shown = [difference for difference in self.differences if difference.word != NOTHING]
        if shown:
            told = "; ".join(difference.sentence(self.metric) for difference in shown)
            return f"{told}. For all else {NOTHING}" if len(shown) < len(self.differences) else told
        wide = max((d.interval.margin for d in self.differences if d.interval), default=None)
        hidden = f"; differences below some {wide:.2f} {self.metric} cannot be seen here" if wide else ""
        return f"{NOTHING} in {self.metric}{hidden}"

    def lines(self) -> list[str]:
        """The differences, what they rest on, and the verdict."""
        found = [difference.sentence(self.metric) for difference in self.differences]
        found += [f"{arm} is not compared: {why}" for arm, why in self.left_out.items()]
        found += [f"the seeds of {arm} lie far further apart than those of the others" for arm in self.scattering]
        if self.seeds > 1:
            found.append(
                f"intervals and p: over seeds and lines; a difference counts below p = {self.level:.4f}, so that of "
                f"arms that are alike at least 19 in 20 comparisons show none (Bonferroni over {len(self.differences)})"
            )
        else:
            found.append(f"one seed: {ONE_SEED}; --seeds 3 tells")
        return [*found, f"verdict: {self.verdict()}"]

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "metric": self.metric,
            "seeds": self.seeds,
            "speaks_of": "settings" if self.seeds > 1 else "these trained systems only",
            "level": self.level,
            "scores": [
                {
                    "arm": score.arm,
                    "metric": score.metric,
                    "value": score.value,
                    **_bounds(score.interval),
                    "by_seed": list(score.by_seed),
                    "signature": self.signatures[score.metric],
                }
                for score in self.scores
            ],
            "differences": [
                {
                    "other": difference.other,
                    "first": difference.first,
                    "over": difference.where.strip(" ,") or None,
                    "value": difference.value,
                    **_bounds(difference.interval),
                    "p_value": difference.p_value,
                    "verdict": difference.word,
                }
                for difference in self.differences
            ],
            "scattering": list(self.scattering),
            "left_out": dict(self.left_out),
            "verdict": self.verdict(),
        }


def find(trained: Trained, *, metric: str, factors: Factors, left_out: Mapping[str, str]) -> Findings:
    """What the scores of all arms and seeds tell, `metric` deciding; arms have the same seeds, lines and metrics."""
    arms, first = list(trained), next(iter(trained.values()))[0]
    order = sorted(range(len(first)), key=lambda place: first[place].name != metric)
    signatures = {first[place].name: first[place].signature for place in order}
    assert first[order[0]].name == metric and len(arms) > 1, "what decides is among the scores of two arms or more"
    scores = [score for place in order for score in _arm_scores(trained, place)]
    if len(next(iter(trained.values()))) == 1:
        differences = _of_systems({arm: [seeds[0][order[0]]] for arm, seeds in trained.items()})
        return Findings(1, scores, differences, signatures, [], left_out)
    deciding = SeedScores([[seed[order[0]] for seed in seeds] for seeds in trained.values()])
    assert deciding.is_defined, "a metric of texts has a value, whichever lines are left out"
    contrasts = [*_from_first(arms), *_main_effects(arms, factors)]
    differences = [
        _difference(deciding, contrast, level=LEVEL / len(contrasts), lower=first[order[0]].lower_is_better)
        for contrast in contrasts
    ]
    scattering = [arm for arm, outlying in zip(arms, deciding.outlying, strict=True) if outlying]
    return Findings(len(next(iter(trained.values()))), scores, differences, signatures, scattering, left_out)


def _arm_scores(trained: Trained, place: int) -> list[ArmScore]:
    """Each arm in the metric at a place among the scores."""
    of_metric = [[seed[place] for seed in seeds] for seeds in trained.values()]
    name, several = of_metric[0][0].name, len(of_metric[0]) > 1
    bounds: list[Interval | None]
    if several:
        deciding = SeedScores(of_metric)
        means = [deciding.mean(arm) for arm in range(len(of_metric))]
        bounds = [_within(mean.interval(), of_metric[0][0]) if deciding.is_defined else None for mean in means]
    else:
        bounds = [intervals(seeds)[0] for seeds in of_metric]
    return [
        ArmScore(arm, name, [s.value for s in seeds], float(np.mean([s.value for s in seeds])), interval)
        for arm, seeds, interval in zip(trained, of_metric, bounds, strict=True)
    ]


def _within(interval: Interval | None, score: Score) -> Interval | None:
    """The part of an interval where scores can lie: none is negative, and of what is better higher all are percent."""
    if interval is None:
        return None
    return Interval(max(0.0, interval.low), interval.high if score.lower_is_better else min(100.0, interval.high))


def _from_first(arms: Sequence[str]) -> list[Contrast]:
    """Each arm less the first."""
    ones = np.eye(len(arms))
    return [Contrast(arms[place], arms[0], "", ones[place] - ones[0]) for place in range(1, len(arms))]


def _main_effects(arms: Sequence[str], factors: Factors) -> list[Contrast]:
    """Each value of a setting less its first value, over all values of the other settings."""
    found = []
    for name, values in factors.items():
        column = np.array([values[arm] for arm in arms])
        first, *others = dict.fromkeys(column.tolist())
        rest = " and ".join(other for other in factors if other != name)
        for value in others:
            weights = (column == value) / (column == value).sum() - (column == first) / (column == first).sum()
            found.append(Contrast(f"{name}={value}", f"{name}={first}", f", over all {rest},", weights))
    return found


def _difference(scores: SeedScores, contrast: Contrast, *, level: float, lower: bool) -> Difference:
    found, word = scores.contrast(contrast.weights), NOTHING
    if found.p_value < level:
        word = "better" if (found.value > 0) != lower else "worse"
    return Difference(*contrast[:3], found.value, found.interval(level), found.p_value, word)


def _of_systems(systems: Mapping[str, Sequence[Score]]) -> list[Difference]:
    """The paired test of single systems against the first."""
    return [
        Difference(row["system"], row["first"], "", row["difference"], None, row["p_value"], row["verdict"])
        for row in compare(systems).to_json()
    ]


def _bounds(interval: Interval | None) -> dict[str, float | None]:
    return {"low": interval.low if interval else None, "high": interval.high if interval else None}
