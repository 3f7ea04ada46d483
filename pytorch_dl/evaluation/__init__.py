"""How good outputs are: scores of hypotheses against references."""

from pytorch_dl.evaluation.metrics import (
    Score,
    bleu,
    character_error_rate,
    chrf,
    exact_match,
    perplexity,
    token_error_rate,
)

__all__ = ["Score", "bleu", "character_error_rate", "chrf", "exact_match", "perplexity", "token_error_rate"]
