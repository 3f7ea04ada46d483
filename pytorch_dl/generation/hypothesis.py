"""What goes into a search and what comes out, for one sentence, in token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """A sentence to search outputs for."""

    source: Sequence[int]
    """Without eos."""
    number: int = 0
    """What random draws of this sentence depend on, beside the seed."""
    prefix: tuple[int, ...] = ()
    """How every output begins."""
    banned: tuple[tuple[int, ...], ...] = ()
    """Runs of tokens that no output holds."""
    required: tuple[tuple[int, ...], ...] = ()
    """Runs of tokens that every finished output holds."""


@dataclass(frozen=True)
class Hypothesis:
    """One output of the search; `finished` is False when the limit came before the end-of-sentence token."""

    ids: list[int]
    """Without bos and eos."""
    score: float
    """log_prob, divided as `SearchSettings.length_norm` says; length counts eos."""
    log_prob: float
    """Sum of the log-probabilities of all tokens, eos included, in nats: what the model says, whatever was banned."""
    finished: bool
    source_cut: bool = False
    """True when the source was longer than the model can read, so that its end was left out."""
    token_log_probs: list[float] = field(default_factory=list)
    """Those of each token, eos included."""
