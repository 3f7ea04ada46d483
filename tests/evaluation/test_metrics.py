"""Metrics against values worked out by hand, sacrebleu's command line, and the textbook edit distance."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from pytorch_dl.errors import ConfigError, DataError, NonFiniteError
from pytorch_dl.evaluation.metrics import (
    bleu,
    bleu_is_defined,
    character_error_rate,
    chrf,
    chrf_plus_plus,
    edit_distance,
    exact_match,
    has_four_grams,
    perplexity,
    perplexity_score,
    ter,
    ter_seconds,
    token_error_rate,
)

HYPOTHESES = ["The cat sat on the mat.", "It's 3.5 degrees, isn't it?", "", "two dogs bark"]
REFERENCES = ["The cat is sitting on the mat.", "It is 3.5 degrees, isn't it?", "Nothing here.", "two dogs bark"]
METRICS = [bleu, chrf, chrf_plus_plus, ter, exact_match, token_error_rate, character_error_rate]


def textbook_distance(source, target) -> int:
    """Wagner and Fischer 1974, the whole table."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(target) + 1)] for i in range(len(source) + 1)]
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a != b))
    return table[-1][-1]


@pytest.mark.parametrize(
    ("references", "defined"),
    [
        (["one", "two words", "three of them"], False),
        (["one", "four, of them"], True),
        (["2024-03-07"], True),
        ([], False),
    ],
)
def test_bleu_needs_four_tokens_in_a_row(references, defined):
    assert has_four_grams(references) == defined
    if references:
        assert (bleu(references, references).value > 0) == defined


def test_all_equal_the_command_line_of_sacrebleu(tmp_path):
    (tmp_path / "hyp").write_text("\n".join(HYPOTHESES) + "\n")
    (tmp_path / "ref").write_text("\n".join(REFERENCES) + "\n")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-w", "10", "-m"]
    calls = ["bleu", "chrf", "ter"], ["chrf", "--chrf-word-order", "2"]
    outputs = [subprocess.check_output([*command, *words], cwd=tmp_path, text=True) for words in calls]
    expected = [*json.loads(outputs[0]), json.loads(outputs[1])]
    scores = [metric(HYPOTHESES, REFERENCES) for metric in (bleu, chrf, ter, chrf_plus_plus)]
    for score, want in zip(scores, expected, strict=True):
        assert (score.name, score.signature) == (want["name"], want["signature"])
        assert score.value == pytest.approx(want["score"], abs=1e-9)
        assert 20 < score.value < 80


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char", "intl"])
def test_bleu_with_other_tokenisers(tokenizer):
    texts = ["我今天去北京看朋友。", "他们喜欢猫和狗。"], ["我今天去上海看朋友。", "他们喜欢猫和小狗。"]
    score, want = bleu(*texts, tokenizer=tokenizer), BLEU(tokenize=tokenizer)
    assert score.value == want.corpus_score(texts[0], [texts[1]]).score
    assert f"|tok:{tokenizer}|" in score.signature
    assert bleu_is_defined(score) == (tokenizer in ("zh", "char"))


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ("klingon", r"unknown BLEU tokenizer 'klingon'\. Fix: give one of none, zh, 13a"),
        ("ja-mecab", r"the BLEU tokenizer ja-mecab cannot be used: Japanese .* pip install sacrebleu\[ja\]"),
    ],
)
def test_tokenisers_that_cannot_be_had(tokenizer, message, monkeypatch):
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    with pytest.raises(ConfigError, match=message):
        bleu(["a"], ["a"], tokenizer=tokenizer)


def test_signatures_name_the_rules():
    assert bleu(HYPOTHESES, REFERENCES).signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert chrf(HYPOTHESES, REFERENCES).signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.")
    assert len({metric(HYPOTHESES, REFERENCES).signature for metric in METRICS}) == len(METRICS)


def test_bleu_by_hand():
    # 1- to 4-gram precisions 5/6, 3/5, 2/4 and 1/3 at equal length: their geometric mean
    score = bleu(["the cat sat on the mat"], ["the cat sat on a mat"])
    assert score.value == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)


def test_exact_match_counts_whole_lines_with_case_and_spaces():
    score = exact_match(["a b", "A b", "a b ", "c"], ["a b", "a b", "a b", "c"])
    assert (score.name, score.value) == ("exact match", 50.0)


def test_token_error_rate_is_summed_over_the_set():
    # 1 substitution and 1 insertion over 3 tokens, then 1 deletion over 1: 3 edits over 4 tokens, not a mean of means
    score = token_error_rate(["a x c d", ""], ["a b  c", "z"])
    assert (score.name, score.value) == ("token error rate", 75.0)
    assert token_error_rate(["a b c d e"], ["z"]).value == 500.0


def test_character_error_rate_counts_code_points_and_spaces():
    assert character_error_rate(["kitten"], ["sitting"]).value == pytest.approx(100 * 3 / 7)
    assert character_error_rate(["ab"], ["a b"]).value == pytest.approx(100 / 3)
    assert character_error_rate(["\U0001f600é"], ["\U0001f600e"]).value == 50.0


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_and_unequal_and_empty_sets(metric):
    perfect = metric(REFERENCES, REFERENCES)
    assert perfect.value == pytest.approx(0.0 if perfect.lower_is_better else 100.0)
    with pytest.raises(DataError, match=r"^3 hypotheses for 4 references\. Fix: give exactly one hypothesis"):
        metric(HYPOTHESES[:3], REFERENCES)
    with pytest.raises(DataError, match=r"^0 hypotheses for 0 references"):
        metric([], [])


def test_an_error_rate_needs_reference_tokens():
    with pytest.raises(DataError, match="the 2 references hold no tokens"):
        token_error_rate(["a", "b"], ["", "  "])
    with pytest.raises(DataError, match="the 1 references hold no characters"):
        character_error_rate(["a"], [""])


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
@example("", "")
@example("", "abc")
@example("abc", "")
def test_edit_distance_equals_the_textbook(source, target):
    assert edit_distance(source, target) == textbook_distance(source, target)


def test_edit_distance_of_long_and_of_token_sequences():
    source, target = "abcdefghij" * 15, "acbdefgihj" * 14  # longer than a machine word
    assert edit_distance(source, target) == textbook_distance(source, target)
    assert edit_distance(["a", "bc"], ["a", "b", "c"]) == 2


def test_perplexity():
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7.0)
    assert perplexity(1e9, 1) == math.inf
    with pytest.raises(DataError, match="at least 1 token, got 0"):
        perplexity(0.0, 0)
    with pytest.raises(NonFiniteError, match="the loss over 5 tokens is nan"):
        perplexity(math.nan, 5)


def test_the_perplexity_of_pairs_is_that_of_their_sums():
    score = perplexity_score([4.0, 1.0, 0.0], [2, 1, 0])  # the third was left out
    assert score.value == perplexity(5.0, 3) and score.signature == "tokens:3" and score.lower_is_better
    assert math.isnan(score.formula([0.0, 0.0]))
    with pytest.raises(DataError, match="at least 1 token, got 0"):
        perplexity_score([0.0], [0])


def test_the_time_of_ter_grows_with_the_cube_of_the_length():
    assert ter_seconds(["a b c d e f g h i j"] * 1000) == pytest.approx(1.0)
    assert ter_seconds(["w " * 20]) == pytest.approx(8 * ter_seconds(["w " * 10]))
