"""Differences between arms of several seeds: by hand where that is possible, and how often they are wrong."""

import itertools
import math

import numpy as np
import pytest

from pytorch_dl.evaluation.metrics import bleu, percentage
from pytorch_dl.scoring import seed_variance
from pytorch_dl.scoring.randomisation import p_value
from pytorch_dl.scoring.score import Score
from pytorch_dl.scoring.seed_variance import SeedScores, pseudo_values

WORDS = ["the", "old", "cat", "dog", "tree", "sees", "likes", "green", "under", "over"]
TRIALS = 400
NOISE = 3 * math.sqrt(0.05 * 0.95 / TRIALS)  # three standard errors of a share of 5 %
SEED_SD = 0.25  # in logits: some 4 points of exact match, of which lines alone would make 3


def right_or_wrong(right) -> Score:
    rows = np.stack([right, np.ones(len(right))], axis=1).astype(float)
    return Score("exact match", "", rows, percentage)


def of_lines(values) -> Score:
    """A metric that is the mean of the lines' values."""
    rows = np.stack([values, np.ones(len(values))], axis=1).astype(float)
    return Score("mean", "", rows, lambda sums: sums[0] / sums[1])


def like_trainings(rng, *, arms: int, seeds: int, lines: int, gains=None, sd: float = SEED_SD) -> list[list[Score]]:
    """Systems that are right on easy lines more often; each seed has its own skill, each arm its gain."""
    hardness = rng.normal(0, 2, lines)
    skills = rng.normal(0, sd, (arms, seeds)) + np.reshape(gains or [0.0] * arms, (arms, 1))
    chances = 1 / (1 + np.exp(-(hardness + skills[:, :, None])))
    return [[right_or_wrong(right) for right in arm] for arm in rng.random(chances.shape) < chances]


def from_first(arms: int) -> list[np.ndarray]:
    return [np.eye(arms)[place] - np.eye(arms)[0] for place in range(1, arms)]


def shown(trained: list[list[Score]]) -> list[bool]:
    """Of each arm but the first, whether it is told to differ."""
    scores, contrasts = SeedScores(trained), from_first(len(trained))
    return [scores.contrast(weights).p_value < 0.05 / len(contrasts) for weights in contrasts]


def test_pseudo_values_of_a_mean_are_its_lines():
    values = np.random.default_rng(1).normal(size=30)
    assert pseudo_values(of_lines(values)) == pytest.approx(values)


def test_pseudo_values_of_bleu_average_to_it_and_scatter_as_the_bootstrap_says():
    rng = np.random.default_rng(2)
    references = [" ".join(rng.choice(WORDS, size=8)) for _ in range(150)]
    found = [" ".join(w if rng.random() > 0.3 else rng.choice(WORDS) for w in line.split()) for line in references]
    score = bleu(found, references)
    values = pseudo_values(score)
    resampled = [score.of(rng.integers(150, size=150)).value for _ in range(400)]
    assert values.mean() == pytest.approx(score.value, abs=0.5)
    assert math.sqrt(values.var(ddof=1) / 150) == pytest.approx(np.std(resampled), rel=0.15)


def test_many_lines_are_left_out_in_groups(monkeypatch):
    values = np.random.default_rng(3).normal(size=600)
    whole = pseudo_values(of_lines(values))
    monkeypatch.setattr(seed_variance, "GROUPS", 100)
    grouped = pseudo_values(of_lines(values))
    assert len(whole) == 500 and len(grouped) == 100
    assert grouped == pytest.approx(values.reshape(6, 100).mean(0))


def test_where_arms_have_no_taste_for_lines_it_is_the_t_test_of_two_samples():
    lines, a, b = np.linspace(-1, 1, 20), np.array([1.0, 2.0, 4.0]), np.array([6.0, 7.5, 8.0])
    found = SeedScores([[of_lines(lines + skill) for skill in arm] for arm in (a, b)]).contrast([-1, 1])
    pooled = (a.var(ddof=1) + b.var(ddof=1)) / 2
    assert found.value == pytest.approx(b.mean() - a.mean())
    assert found.error == pytest.approx(math.sqrt(pooled * 2 / 3))
    assert found.freedom == pytest.approx(4)
    low, high = found.interval()
    assert (high - low) / 2 == pytest.approx(2.776 * found.error, rel=1e-3)


def test_the_taste_of_arms_for_lines_counts_where_seeds_are_alike():
    rng = np.random.default_rng(4)
    taste = rng.normal(size=(2, 50))
    found = SeedScores([[of_lines(arm)] * 3 for arm in taste]).contrast([-1, 1])
    difference = taste[1] - taste[0]
    assert found.error == pytest.approx(math.sqrt(difference.var(ddof=1) / 50))
    assert found.freedom == pytest.approx(49)


def test_what_one_model_does_on_one_line_counts_once():
    """The scatter of the systems' scores holds it already: the error is as without regard to the lines."""
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(200):
        trained = [[of_lines(rng.normal(size=40)) for _ in range(8)] for _ in "ab"]
        ratios.append(SeedScores(trained).contrast([-1, 1]).error ** 2 / (2 / 8 / 40))
    assert 0.97 < np.mean(ratios) < 1.25  # counted twice: 2; a variance is never below 0, which makes it a little large


def test_one_arm_that_scatters_keeps_it_for_itself():
    widths = [1.0, 1.0, 1.0, 1.0, 60.0]
    scores = SeedScores([[of_lines(np.zeros(9) + width * seed) for seed in range(3)] for width in widths])
    assert scores.outlying.tolist() == [False] * 4 + [True]
    near, far = (scores.contrast(weights) for weights in (from_first(5)[0], from_first(5)[3]))
    assert near.error == pytest.approx(math.sqrt(2 / 3)) and near.freedom == pytest.approx(8)
    assert far.error == pytest.approx(math.sqrt((1 + 60**2) / 3)) and far.freedom == pytest.approx(2, abs=0.01)


def test_the_same_scores_show_nothing():
    one = [[of_lines(np.arange(5.0) / 3)] * 3] * 2
    assert SeedScores(one).contrast([-1, 1]).p_value == 1.0


@pytest.mark.parametrize(("lines", "p"), [(1, 1.0), (2, 0.5), (6, 0.03125), (500, 0.5**499)])
def test_where_nothing_scatters_as_many_lines_as_agree_tell_and_no_interval(lines, p):
    """By the sign test; thirds, so that not all sums are exact."""
    arms = [[of_lines(np.full(lines, value))] * 3 for value in (100 / 3, 200 / 3)]
    found = SeedScores(arms).contrast([-1, 1])
    assert found.value == pytest.approx(100 / 3) and found.p_value == pytest.approx(p)
    assert found.interval() is None


def with_wrong_lines(arms, *, lines: int) -> list[list[Score]]:
    """Systems that are right but for the lines given by arm and seed."""
    return [[right_or_wrong(~np.isin(np.arange(lines), wrong)) for wrong in arm] for arm in arms]


def test_seeds_that_tie_by_luck_do_not_make_the_score_certain():
    """Three wrong lines of 3,000 against none: a coin that falls three times on one side, p = 0.25."""
    found = SeedScores(with_wrong_lines([[[], [], []], [[1], [2], [3]]], lines=1000)).contrast([-1, 1])
    assert found.value == pytest.approx(-0.1) and found.p_value > 0.05
    assert found.interval().low < 0 < found.interval().high


def test_where_seeds_tie_the_error_is_that_of_the_lines():
    """The part of one model on one line is taken out of the scatter of the lines, and must not be lost."""
    scores = SeedScores(with_wrong_lines([[[0], [0], [0]], [[1], [2], [3]]], lines=12))
    difference = np.array([100, *[-100 / 3] * 3, *[0] * 8])
    assert scores.contrast([-1, 1]).error == pytest.approx(math.sqrt(difference.var(ddof=1) / 12))


def test_arms_whose_seeds_tie_by_luck_make_no_other_arm_an_outlying_one():
    tied, usual = [[1], [2], [3]], [[1], [2], [3, 4]]
    assert not SeedScores(with_wrong_lines([tied, tied, usual], lines=1000)).outlying.any()


@pytest.mark.parametrize("seeds", [2, 3])
def test_near_perfect_arms_that_are_alike_are_never_told_to_differ_for_certain(seeds):
    """About one wrong line a system: scores tie all the time."""
    rng = np.random.default_rng(11)
    trained = ([[right_or_wrong(r) for r in arm] for arm in rng.random((2, seeds, 1000)) < 0.999] for _ in range(300))
    p_values = [SeedScores(systems).contrast([-1, 1]).p_value for systems in trained]
    assert min(p_values) > 1e-4 and len(set(p_values)) > 50


@pytest.mark.parametrize(
    "size",
    [{"arms": 2, "seeds": 3, "lines": 60}, {"arms": 4, "seeds": 3, "lines": 40}, {"arms": 3, "seeds": 2, "lines": 40}],
)
@pytest.mark.parametrize("sd", [0.0, SEED_SD, 1.0])
def test_of_like_arms_19_in_20_comparisons_show_nothing(size, sd):
    rng = np.random.default_rng(7)
    alarms = sum(any(shown(like_trainings(rng, **size, sd=sd))) for _ in range(TRIALS)) / TRIALS
    assert alarms < 0.05 + NOISE
    assert alarms > 0.005 or sd < 1, "fewer where seeds are alike, whose variance is taken for no less than chance"


def test_a_paired_test_of_all_lines_calls_like_arms_different():
    """The fault that this is here to avoid."""
    rng, alarms = np.random.default_rng(8), 0
    for _ in range(100):
        trained = like_trainings(rng, arms=2, seeds=3, lines=200, sd=0.5)
        joined = [right_or_wrong(np.concatenate([score.rows[:, 0] for score in arm])) for arm in trained]
        alarms += p_value(*joined, trials=200) < 0.05
    assert alarms > 20


def test_differences_of_realistic_size_are_found():
    rng = np.random.default_rng(9)
    found = [shown(like_trainings(rng, arms=4, seeds=3, lines=200, gains=[0, 0, 0.8, 1.6])) for _ in range(100)]
    like, some, much = np.mean(found, axis=0)
    assert like < 0.06 and some > 0.2 and much > 0.9


def test_like_arms_in_bleu():
    """Each line of each system is one of many spoilt forms, the better the system the less spoilt."""
    rng, lines, forms = np.random.default_rng(10), 30, 24
    references = [" ".join(rng.choice(WORDS, size=rng.integers(6, 12))) for _ in range(lines)]
    shares = np.linspace(0.05, 0.6, forms)
    spoilt = [
        bleu(
            [" ".join(w if rng.random() > share else rng.choice(WORDS) for w in r.split()) for r in references],
            references,
        )
        for share in shares
    ]
    rows = np.stack([score.rows for score in spoilt])  # (forms, N, K)
    alarms, found = 0, 0
    for _, gain in itertools.product(range(200), (0, 9)):
        places = rng.normal(12, 2, (2, 3, 1)) + rng.normal(0, 4, (2, 3, lines)) - np.array([0, gain]).reshape(2, 1, 1)
        chosen = np.clip(places.round().astype(int), 0, forms - 1)
        trained = [
            [Score("BLEU", "", rows[system, np.arange(lines)], spoilt[0].formula) for system in arm] for arm in chosen
        ]
        alarms += shown(trained)[0] and not gain
        found += shown(trained)[0] and bool(gain)
    assert alarms / 200 < 0.05 + NOISE * math.sqrt(2)
    assert found / 200 > 0.6
