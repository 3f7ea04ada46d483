"""How good outputs are: scores of hypotheses against references."""

from pytorch_dl.evaluation.metrics import (
    bleu,
    character_error_rate,
    chrf,
    chrf_plus_plus,
    exact_match,
    perplexity,
    ter,
    token_error_rate,
)
from pytorch_dl.scoring.score import Score

__all__ = [
    "Score",
    "bleu",
    "character_error_rate",
    "chrf",
    "chrf_plus_plus",
    "exact_match",
    "perplexity",
    "ter",
    "token_error_rate",
]
