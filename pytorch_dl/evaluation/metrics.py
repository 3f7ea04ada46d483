"""Scores of a whole test set: lists of strings in, one `Score` with its signature out.

BLEU, chrF and TER are sacrebleu's, signatures included.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from pytorch_dl.errors import ConfigError, DataError, NonFiniteError
from pytorch_dl.scoring import names
from pytorch_dl.scoring.score import Score


def bleu(hypotheses: Sequence[str], references: Sequence[str], *, tokenizer: str = "13a") -> Score:
    """Corpus BLEU (Papineni et al. 2002) as sacrebleu computes it: tokeniser 13a, cased, exponential smoothing."""
    return _sacrebleu(names.BLEU, bleu_metric(tokenizer), hypotheses, references)


def bleu_metric(tokenizer: str) -> Any:
    """sacrebleu's BLEU with one of its tokenisers; a ConfigError says why there is none."""
    from sacrebleu.metrics import BLEU

    if tokenizer not in BLEU.TOKENIZERS:
        raise ConfigError(f"unknown BLEU tokenizer {tokenizer!r}", fix=f"give one of {', '.join(BLEU.TOKENIZERS)}")
    try:
        return BLEU(tokenize=tokenizer)
    except (ImportError, RuntimeError, OSError) as error:  # a package or a model of its own is missing
        raise ConfigError(f"the BLEU tokenizer {tokenizer} cannot be used: {error}", fix="install it") from None


def bleu_is_defined(score: Score) -> bool:
    """Whether any reference of a BLEU score has four tokens, without which it has nothing to compare and is 0."""
    return bool((score.rows[:, 1] >= 4).any())  # a line's statistics: tokens, those of the reference, n-grams


def has_four_grams(texts: Sequence[str]) -> bool:
    """Whether any text has four tokens, without which BLEU has nothing to compare and is 0."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize: Callable[[str], str] = Tokenizer13a()
    return any(len(tokenize(text).split()) >= 4 for text in texts)


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus chrF2 (Popovic 2016) as sacrebleu computes it: character 6-grams, beta 2, cased, no word n-grams."""
    from sacrebleu.metrics import CHRF

    return _sacrebleu(names.CHRF, CHRF(), hypotheses, references)


def chrf_plus_plus(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Corpus chrF2++ (Popovic 2017): chrF2 that counts single words and pairs of words as well."""
    from sacrebleu.metrics import CHRF

    return _sacrebleu(names.CHRF_PLUS_PLUS, CHRF(word_order=2), hypotheses, references)


def ter(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Translation edit rate (Snover et al. 2006) as sacrebleu computes it: edits per 100 words, moves of runs included.

    Its time grows with the cube of the length: `ter_seconds` tells beforehand.
    """
    from sacrebleu.metrics import TER

    return _sacrebleu(names.TER, TER(), hypotheses, references, lower_is_better=True)


def ter_seconds(references: Sequence[str]) -> float:
    """About how long TER takes when translations are poor: a microsecond for each cubed word was measured."""
    return 1e-6 * sum(len(reference.split()) ** 3 for reference in references)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Percentage of hypotheses that equal their reference, character for character."""
    _check_counts(hypotheses, references)
    rows = [(hypothesis == reference, 1) for hypothesis, reference in zip(hypotheses, references, strict=True)]
    return Score(names.EXACT_MATCH, "nrefs:1|case:mixed|unit:line", np.array(rows, dtype=np.float64), percentage)


def token_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Edits per 100 reference tokens over the whole set; tokens are what whitespace separates."""
    signature = "nrefs:1|case:mixed|unit:token|tok:whitespace"
    return _error_rate(names.TOKEN_ERROR_RATE, signature, hypotheses, references, unit="tokens", split=str.split)


def character_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Edits per 100 reference characters over the whole set; characters are code points, spaces included."""
    signature = "nrefs:1|case:mixed|unit:codepoint|space:yes"
    return _error_rate(names.CHARACTER_ERROR_RATE, signature, hypotheses, references, unit="characters", split=str)


def percentage(sums: Sequence[float]) -> float:
    """100 * part / whole, of the sums (part, whole)."""
    part, whole = sums
    return 100 * part / whole if whole else math.nan


def perplexity_score(nll: Sequence[float], num_tokens: Sequence[int]) -> Score:
    """Perplexity from the negative log-likelihood of each reference in nats, and its number of tokens."""
    rows = np.stack([np.asarray(nll, dtype=np.float64), np.asarray(num_tokens, dtype=np.float64)], axis=1)
    perplexity(float(rows[:, 0].sum()), total := int(rows[:, 1].sum()))  # raises where there is none
    return Score("perplexity", f"tokens:{total}", rows, _perplexity_of, lower_is_better=True)


def _perplexity_of(sums: Sequence[float]) -> float:
    nll, num_tokens = sums
    return perplexity(nll, int(num_tokens)) if num_tokens else math.nan


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


def _sacrebleu(
    name: str, metric: Any, hypotheses: Sequence[str], references: Sequence[str], *, lower_is_better: bool = False
) -> Score:
    """By the functions of sacrebleu's own resampling, which are its only way to the statistics of a line."""
    _check_counts(hypotheses, references)
    rows = np.array(metric._extract_corpus_statistics(hypotheses, [references]), dtype=np.float64)

    def formula(sums: Sequence[float]) -> float:
        return float(metric._compute_score_from_stats(sums).score)

    return Score(name, str(metric.get_signature()), rows, formula, lower_is_better)


def _error_rate(
    name: str,
    signature: str,
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    unit: str,
    split: Callable[[str], Sequence[str]],
) -> Score:
    _check_counts(hypotheses, references)
    pairs = zip(map(split, hypotheses), map(split, references), strict=True)
    rows = np.array([(edit_distance(ours, theirs), len(theirs)) for ours, theirs in pairs], dtype=np.float64)
    if not rows[:, 1].any():
        raise DataError(f"the {len(references)} references hold no {unit}", fix="give references that are not blank")
    return Score(name, signature, rows, percentage, lower_is_better=True)


def _check_counts(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses for {len(references)} references",
            fix="give exactly one hypothesis per reference, in the same order",
        )
    if not references:
        raise DataError("0 hypotheses for 0 references: there is nothing to score", fix="give at least one pair")
