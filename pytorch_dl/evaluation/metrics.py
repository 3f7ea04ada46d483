"""Scores of a whole test set: lists of strings in, one number with its signature out.

A signature says all that must be equal for two numbers to be comparable. BLEU and chrF are sacrebleu's.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from pytorch_dl.errors import DataError, NonFiniteError


class Score(NamedTuple):
    """A metric's value in percent, 0 to 100 except for error rates, which may exceed it."""

    name: str
    value: float
    signature: str


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it: tokeniser 13a, cased, exponential smoothing."""
    from sacrebleu.metrics import BLEU

    return _sacrebleu("BLEU", BLEU(), hypotheses, references)


def has_four_grams(texts: Sequence[str]) -> bool:
    """Whether any text has four tokens, without which BLEU has nothing to compare and is 0."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize: Callable[[str], str] = Tokenizer13a()
    return any(len(tokenize(text).split()) >= 4 for text in texts)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus chrF2 (Popovic 2016) as sacrebleu computes it: character 6-grams, beta 2, cased, no word n-grams."""
    from sacrebleu.metrics import CHRF

    return _sacrebleu("chrF2", CHRF(), hypotheses, references)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Percentage of hypotheses that equal their reference, character for character."""
    _check_counts(hypotheses, references)
    equal = sum(hypothesis == reference for hypothesis, reference in zip(hypotheses, references, strict=True))
    return Score("exact match", 100 * equal / len(references), "nrefs:1|case:mixed|unit:line")


def token_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Edits per 100 reference tokens over the whole set; tokens are what whitespace separates."""
    value = _error_rate(hypotheses, references, unit="tokens", split=str.split)
    return Score("token error rate", value, "nrefs:1|case:mixed|unit:token|tok:whitespace")


def character_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Edits per 100 reference characters over the whole set; characters are code points, spaces included."""
    value = _error_rate(hypotheses, references, unit="characters", split=str)
    return Score("character error rate", value, "nrefs:1|case:mixed|unit:codepoint|space:yes")


def perplexity(nll_sum: float, num_tokens: int) -> float:
    """exp of the mean negative log-likelihood, which is given in nats; infinite where it overflows."""
    if num_tokens < 1:
        raise DataError(f"a perplexity needs at least 1 token, got {num_tokens}", fix="evaluate on a set that has text")
    if math.isnan(nll_sum):
        raise NonFiniteError(f"the loss over {num_tokens} tokens is nan", fix="evaluate an earlier checkpoint")
    try:
        return math.exp(nll_sum / num_tokens)
    except OverflowError:
        return math.inf


def edit_distance(source: Sequence[Hashable], target: Sequence[Hashable]) -> int:
    """Fewest insertions, deletions and substitutions from one sequence to the other (Levenshtein 1966).

    Bit-parallel: a column of the table is two integers, where bit i of `plus` (`minus`) says that row i + 1 is one
    more (less) than row i (Hyyro 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances").
    """
    if source == target:
        return 0
    if not source:
        return len(target)
    rows: dict[Hashable, int] = {}
    for row, symbol in enumerate(source):
        rows[symbol] = rows.get(symbol, 0) | 1 << row
    last, full = 1 << (len(source) - 1), (1 << len(source)) - 1
    plus, minus, distance = full, 0, len(source)
    for symbol in target:
        equal = rows.get(symbol, 0)
        diagonal = (((equal & plus) + plus) ^ plus) | equal | minus
        right_plus, right_minus = minus | ~(diagonal | plus) & full, plus & diagonal
        distance += bool(right_plus & last) - bool(right_minus & last)
        right_plus, right_minus = right_plus << 1 | 1, right_minus << 1
        plus, minus = (right_minus | ~(diagonal | right_plus)) & full, right_plus & diagonal & full
    return distance


def _sacrebleu(name: str, metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    _check_counts(hypotheses, references)
    value = float(metric.corpus_score(hypotheses, [references]).score)
    return Score(name, value, str(metric.get_signature()))


def _error_rate(
    hypotheses: Sequence[str], references: Sequence[str], *, unit: str, split: Callable[[str], Sequence[str]]
) -> float:
    _check_counts(hypotheses, references)
    length = sum(len(split(reference)) for reference in references)
    if not length:
        raise DataError(f"the {len(references)} references hold no {unit}", fix="give references that are not blank")
    pairs = zip(hypotheses, references, strict=True)
    return 100 * sum(edit_distance(split(hypothesis), split(reference)) for hypothesis, reference in pairs) / length


def _check_counts(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses for {len(references)} references",
            fix="give exactly one hypothesis per reference, in the same order",
        )
    if not references:
        raise DataError("0 hypotheses for 0 references: there is nothing to score", fix="give at least one pair")
