"""Intervals against sacrebleu's own bootstrap, and against the normal distribution where it is known."""

import math

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import _bootstrap_resample

from pytorch_dl.evaluation.metrics import bleu, chrf, chrf_plus_plus, percentage, ter
from pytorch_dl.scoring import bootstrap
from pytorch_dl.scoring.bootstrap import Interval, intervals
from pytorch_dl.scoring.score import Score

rng = np.random.default_rng(3)
WORDS = ["the", "old", "cat", "dog", "tree", "sees", "likes", "green", "under", "over"]
REFERENCES = [" ".join(rng.choice(WORDS, size=rng.integers(5, 11))) for _ in range(70)]
HYPOTHESES = [" ".join(w if rng.random() < 0.7 else rng.choice(WORDS) for w in r.split()) for r in REFERENCES]
METRICS = {bleu: BLEU(), chrf: CHRF(), chrf_plus_plus: CHRF(word_order=2), ter: TER()}


@pytest.mark.parametrize("draws", [bootstrap.DRAWS, 1000], ids=["at once", "in parts"])
def test_intervals_are_those_of_sacrebleu(draws, monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    monkeypatch.setattr(bootstrap, "DRAWS", draws)
    found = intervals([metric(HYPOTHESES, REFERENCES) for metric in METRICS])
    for interval, theirs in zip(found, METRICS.values(), strict=True):
        want = theirs.corpus_score(HYPOTHESES, [REFERENCES], n_bootstrap=1000)
        _, resampled = _bootstrap_resample(theirs._extract_corpus_statistics(HYPOTHESES, [REFERENCES]), theirs, 1000)
        ordered = sorted(score.score for score in resampled)
        assert interval == pytest.approx((ordered[25], ordered[-26]), rel=1e-6)  # theirs are of float32
        assert interval.margin == pytest.approx(want._ci, rel=1e-5) and interval.margin > 1
        assert interval.low < want.score < interval.high


def test_a_share_of_lines_has_the_interval_of_the_normal_distribution():
    right = np.arange(1000) < 300
    score = Score("share", "", np.stack([right, np.ones(1000)], axis=1), percentage)
    (interval,) = intervals([score], resamples=4000)
    margin = 196 * math.sqrt(0.3 * 0.7 / 1000)  # 1.96 standard errors, in percent
    assert interval == pytest.approx((30 - margin, 30 + margin), abs=0.3)


def test_the_seed_decides():
    score = bleu(HYPOTHESES, REFERENCES)
    first, again = intervals([score]), intervals([score])
    assert first == again != intervals([score], seed=1)


def test_resamples_that_leave_a_score_undefined_do_not_count():
    rows = np.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    undefined = Score("share", "", np.zeros((3, 2)), percentage)
    assert intervals([Score("share", "", rows, percentage), undefined]) == [Interval(50.0, 50.0), None]


def test_a_single_line_and_no_score_have_none():
    assert intervals([Score("share", "", np.ones((1, 2)), percentage)]) == [None]
    assert intervals([]) == []
