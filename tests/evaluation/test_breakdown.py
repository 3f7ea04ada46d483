"""Buckets against scores of their lines alone."""

import numpy as np
import pytest

from pytorch_dl.evaluation.breakdown import Bucket, by_length, by_rarest, frequencies, unit_of, units
from pytorch_dl.evaluation.metrics import bleu, chrf, exact_match
from pytorch_dl.scoring.bootstrap import intervals

rng = np.random.default_rng(1)
SOURCES = [" ".join("w" * n for n in rng.integers(1, 9, size=rng.integers(1, 20))) for _ in range(60)]
REFERENCES = [source.replace("wwww", "wxyz") for source in SOURCES]
HYPOTHESES = [line.replace(" ww ", " ") for line in REFERENCES]
METRICS = (bleu, chrf, exact_match)
SCORES = [metric(HYPOTHESES, REFERENCES) for metric in METRICS]


def lines_of(bucket: Bucket, numbers: list[int]) -> list[int]:
    return [i for i, n in enumerate(numbers) if bucket.low <= n <= (bucket.high if bucket.high is not None else n)]


def check_scores(bucket: Bucket, lines: list[int]) -> None:
    """A bucket's scores are those of its lines, scored as a text of their own."""
    assert bucket.lines == len(lines) > 0
    hypotheses, references = [HYPOTHESES[line] for line in lines], [REFERENCES[line] for line in lines]
    wanted = {score.name: score for score in (metric(hypotheses, references) for metric in METRICS)}
    for score, interval in bucket.scores:
        assert score.value == wanted[score.name].value
        assert interval == intervals([wanted[score.name]])[0]


def test_by_length_covers_all_lines_in_like_parts():
    found = by_length(SOURCES, SCORES)
    lengths = [len(source.split()) for source in SOURCES]
    assert (found.by, found.unit, found.counted_in, len(found.buckets)) == ("source length", "words", None, 5)
    assert sorted(line for bucket in found.buckets for line in lines_of(bucket, lengths)) == [*range(60)]
    for bucket in found.buckets:
        check_scores(bucket, lines_of(bucket, lengths))
        assert 5 <= bucket.lines <= 20


def test_bleu_is_left_out_where_no_reference_has_four_words():
    found = by_length(["a b"] * 10 + ["a b c d"] * 10, [bleu(["x"] * 20, ["x y"] * 10 + ["x y z a"] * 10)])
    assert [len(bucket.scores) for bucket in found.buckets] == [0, 1]


@pytest.mark.parametrize(("lines", "buckets"), [(1, 1), (19, 1), (20, 2), (40, 4), (1000, 5)])
def test_few_lines_have_few_buckets(lines, buckets):
    sources = ["w " * n for n in range(1, lines + 1)]
    assert len(by_length(sources, [exact_match(sources, sources)]).buckets) == buckets


def test_equal_lengths_stay_together():
    sources = ["a b"] * 30
    (bucket,) = by_length(sources, [exact_match(sources, sources)]).buckets
    assert bucket.lines == 30


def test_by_rarest_word():
    counts = frequencies(SOURCES, SOURCES[:3])
    rarest = [min(" ".join(SOURCES[:3]).split().count(word) for word in source.split()) for source in SOURCES]
    found = by_rarest(SOURCES, SCORES, counts=counts, counted_in="the training text")
    assert (found.by, found.counted_in) == ("frequency of the rarest source word", "the training text")
    assert sum(bucket.lines for bucket in found.buckets) == 60
    for bucket in found.buckets:
        check_scores(bucket, lines_of(bucket, rarest))
    assert len(found.buckets) >= 2


def test_frequencies_are_of_words_without_case_and_punctuation():
    counts = frequencies(["The cat, a „Hund“!", "unseen word"], ["the (cat) sat", "Cat? THE hund", "a dog"])
    assert counts == {"the": 2, "cat": 2, "hund": 1, "a": 1}
    assert counts["unseen"] == 0 and "dog" not in counts


def test_marks_within_a_word_and_of_other_scripts_stay():
    assert units("It's well-known: हिन्दी है।", "words")[:3] == ["it's", "well-known", "हिन्दी"]
    assert units("...", "words") == []


def test_a_source_of_punctuation_alone_has_the_frequency_0():
    sources = ["... !", "a b"]
    found = by_rarest(sources, [exact_match(sources, sources)], counts={"a": 5, "b": 1}, counted_in="x")
    assert [(bucket.low, bucket.high, bucket.lines) for bucket in found.buckets] == [(0, 0, 1), (1, 1, 1)]


def test_without_spaces_characters_are_counted():
    sources = ["2031年4月1日", "今日は"]
    assert unit_of(sources) == "characters" and unit_of(["a b", "c d"]) == "words"
    assert frequencies(sources, ["今 今 1"]) == {"今": 2, "1": 1}
    found = by_rarest(sources, [exact_match(sources, sources)], counts={}, counted_in="x")
    assert found.by == "frequency of the rarest source character"


@pytest.mark.parametrize(
    ("low", "high", "label"),
    [(0, 8, "up to 8"), (0, 0, "0"), (1, 1, "1"), (2, 9, "2 to 9"), (1000, None, "1,000 and more"), (0, None, "all")],
)
def test_labels(low, high, label):
    assert Bucket(low, high, 1, []).label == label
