"""Metrics against values worked out by hand, sacrebleu's command line, and the textbook edit distance."""

import json
import math
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytorch_dl.errors import DataError, NonFiniteError
from pytorch_dl.evaluation.metrics import (
    bleu,
    character_error_rate,
    chrf,
    edit_distance,
    exact_match,
    has_four_grams,
    perplexity,
    token_error_rate,
)

HYPOTHESES = ["The cat sat on the mat.", "It's 3.5 degrees, isn't it?", "", "two dogs bark"]
REFERENCES = ["The cat is sitting on the mat.", "It is 3.5 degrees, isn't it?", "Nothing here.", "two dogs bark"]
METRICS = [bleu, chrf, exact_match, token_error_rate, character_error_rate]


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


def test_bleu_and_chrf_equal_the_command_line_of_sacrebleu(tmp_path):
    (tmp_path / "hyp").write_text("\n".join(HYPOTHESES) + "\n")
    (tmp_path / "ref").write_text("\n".join(REFERENCES) + "\n")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "-w", "10"]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    expected = json.loads(output)
    for score, want in zip((bleu(HYPOTHESES, REFERENCES), chrf(HYPOTHESES, REFERENCES)), expected, strict=True):
        assert (score.name, score.signature) == (want["name"], want["signature"])
        assert score.value == pytest.approx(want["score"], abs=1e-9)
        assert 20 < score.value < 80


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
    assert perfect.value == pytest.approx(0.0 if "error" in perfect.name else 100.0)
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
