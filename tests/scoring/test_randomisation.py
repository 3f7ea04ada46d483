"""The paired test against all permutations and sacrebleu's, and how often it is wrong where nothing is to be found."""

import itertools

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import Result, _paired_ar_test

from pytorch_dl.evaluation.metrics import bleu, chrf, chrf_plus_plus, exact_match, ter, token_error_rate
from pytorch_dl.scoring import randomisation
from pytorch_dl.scoring.randomisation import p_value

WORDS = ["the", "old", "cat", "dog", "tree", "sees", "likes", "green", "under", "over"]
METRICS = [bleu, chrf, chrf_plus_plus, ter, exact_match, token_error_rate]


def sentences(count: int, *, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(5, 11))) for _ in range(count)]


def spoilt(lines: list[str], share: float, rng: np.random.Generator) -> list[str]:
    return [" ".join(w if rng.random() > share else rng.choice(WORDS) for w in line.split()) for line in lines]


def by_hand(metric, first, second, references) -> float:
    """The share of all 2 ** N ways to swap lines, scored anew as texts, that differ at least as much."""
    differences = []
    for swap in itertools.product([False, True], repeat=len(references)):
        a, b = zip(*[(y, x) if s else (x, y) for x, y, s in zip(first, second, swap, strict=True)], strict=True)
        differences.append(abs(metric(a, references).value - metric(b, references).value))
    return sum(d >= differences[0] - 1e-9 for d in differences) / len(differences)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_lines_against_all_permutations(metric, seed):
    references, rng = sentences(7, seed=seed), np.random.default_rng(seed)
    first, second = spoilt(references, 0.4, rng), spoilt(references, 0.1, rng)
    second[2] = first[2]
    scores = metric(first, references), metric(second, references)
    want = by_hand(metric, first, second, references)
    assert p_value(*scores) == p_value(*reversed(scores)) == want
    assert p_value(*scores, trials=60) == pytest.approx(want, abs=0.25)  # drawn, not all


def test_draws_approach_what_all_permutations_give():
    references, rng = sentences(11, seed=4), np.random.default_rng(4)
    scores = [bleu(spoilt(references, share, rng), references) for share in (0.4, 0.2)]
    exact = p_value(*scores, trials=2**11)
    assert 0.01 < exact < 0.5
    assert p_value(*scores, trials=2047) == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize("draws", [randomisation.DRAWS, 5000], ids=["at once", "in parts"])
def test_where_nothing_ties_it_is_the_test_of_sacrebleu(draws, monkeypatch):
    monkeypatch.setattr(randomisation, "DRAWS", draws)
    references, rng = sentences(80, seed=5), np.random.default_rng(5)
    first, second = spoilt(references, 0.3, rng), spoilt(references, 0.28, rng)
    for metric, theirs in ((bleu, BLEU()), (chrf, CHRF()), (ter, TER())):
        ours = metric(first, references), metric(second, references)
        base = theirs._extract_corpus_statistics(first, [references])
        seeded = {"n_samples": 500, "seed": 12345}
        told = _paired_ar_test(
            {"": (np.array(base), Result(ours[0].value))}, "", second, [references], {"": theirs}, **seeded
        )
        want = told[1][""].p_value
        if metric is ter:  # edits tie
            assert want < p_value(*ours, trials=500)
        else:
            assert 0.02 < p_value(*ours, trials=500) == want


def test_systems_that_wrote_the_same_do_not_differ():
    references = sentences(30, seed=6)
    assert p_value(bleu(references, references), bleu(list(references), references)) == 1.0
    one = ["something else", *references[1:]]
    assert p_value(bleu(references, references), bleu(one, references)) == 1.0, "a line tells nothing"


@pytest.mark.parametrize(("differing", "p"), [(0, 1.0), (1, 1.0), (2, 0.5), (5, 0.0625), (6, 0.03125)])
def test_few_differing_lines_show_little(differing, p):
    references = sentences(40, seed=7)
    worse = ["nothing right here"] * differing + references[differing:]
    assert p_value(chrf(references, references), chrf(worse, references)) == p


def test_false_alarms_are_no_more_than_the_level():
    """Two draws of one system are compared, 1,000 times; sacrebleu's count of shuffles finds far more differences."""
    rng, trials, lines, alarms, alarms_without_ties = np.random.default_rng(8), 200, 24, 0, 0
    references = ["yes"] * lines
    theirs = BLEU(effective_order=True, max_ngram_order=1, smooth_method="none")
    for seed in range(1000):
        first, second = (["yes" if right else "no" for right in rng.random(lines) < 0.7] for _ in "ab")
        alarms += p_value(exact_match(first, references), exact_match(second, references), trials=trials) <= 0.05
        base = np.array(theirs._extract_corpus_statistics(first, [references]))
        score = Result(theirs._aggregate_and_compute(base.tolist()).score)
        told = _paired_ar_test(
            {"": (base, score)}, "", second, [references], {"": theirs}, n_samples=trials, seed=seed + 1
        )
        alarms_without_ties += told[1][""].p_value <= 0.05
    assert 0.01 < alarms / 1000 <= 0.05
    assert alarms_without_ties / 1000 > 0.07


@pytest.mark.parametrize("metric", [bleu, ter])
def test_false_alarms_in_sentences(metric):
    references, rng, p_values = sentences(20, seed=9), np.random.default_rng(9), []
    for seed in range(300):
        systems = (spoilt(references, 0.3, rng) for _ in "ab")
        p_values.append(p_value(*(metric(lines, references) for lines in systems), trials=199, seed=seed))
    alarms = np.mean(np.array(p_values) <= 0.05)
    assert 0.01 < alarms < 0.09  # 5 % but for luck: 3 standard errors are 4 %
    assert 0.4 < np.mean(p_values) < 0.65
