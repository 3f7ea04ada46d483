"""How outputs are searched for."""

import dataclasses
import math

from pytorch_dl.errors import ConfigError

LENGTH_NORMS = ("power", "gnmt")
EARLY_STOPPING = ("first", "likely", "sure")


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How outputs are searched for; raises ConfigError when a value makes no sense."""

    beam_size: int = 5
    """Prefixes kept alive per sentence; 1 is greedy search."""
    n_best: int = 1
    """Hypotheses returned per sentence: at most `beam_size`, or as many samples."""
    length_penalty: float = 1.0
    """Exponent of the length in the score: 0 favours short outputs, 1 takes the mean."""
    length_norm: str = "power"
    """What a log-probability is divided by: power, length ** length_penalty (fairseq's rule), or gnmt,
    ((5 + length) / 6) ** length_penalty (Wu et al. 2016, arXiv:1609.08144, equation 14)."""
    early_stopping: str = "likely"
    """With beam_size outputs found, a sentence ends: at once (first); when no live prefix, scored at its present
    length, beats the best of them (likely); when none could, however long it grew (sure)."""
    max_length_ratio: float = 3.0
    """An output has at most `max_length_ratio` * source tokens + `max_length_offset` tokens, eos included."""
    max_length_offset: int = 20
    """See `max_length_ratio`."""
    min_length: int = 0
    """An output has at least so many tokens, eos included."""
    no_repeat_ngram: int = 0
    """No run of so many tokens comes twice in an output; 0 lets it."""
    diversity_groups: int = 1
    """Groups of beams, each of which avoids the tokens that those before it take (arXiv:1610.02424)."""
    diversity_penalty: float = 0.5
    """What each beam that has taken a token at this place costs it in nats, in the later groups."""
    sampling: bool = False
    """Draw `n_best` outputs at random from the model rather than search for the likeliest."""
    temperature: float = 1.0
    """Divides the logits of a draw: below 1 sharpens, above 1 flattens."""
    top_k: int = 0
    """Draw from the so many likeliest tokens; 0 from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability (arXiv:1904.09751)."""
    min_p: float = 0.0
    """Draw from the tokens with at least this share of the likeliest one's probability (arXiv:2407.01082)."""
    seed: int = 1
    """The draws of a sentence are a function of this and of the sentence's number."""
    scored: bool = True
    """False: greedy search does without log-probabilities, which it need not know; hypotheses have nan."""

    def __post_init__(self) -> None:
        for name in ("beam_size", "n_best", "max_length_offset", "diversity_groups"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("min_length", "no_repeat_ngram", "top_k", "seed"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("seed", self.seed < 2**64, "a number below 2 ** 64")
        for name, most in (("length_penalty", 10), ("max_length_ratio", 1000), ("diversity_penalty", 1000)):
            self._require(name, 0 <= getattr(self, name) <= most, f"a number from 0 to {most}")
        self._require("temperature", 0 < self.temperature < math.inf, "a number above 0")
        self._require("top_p", 0 < self.top_p <= 1, "a number above 0, at most 1")
        self._require("min_p", 0 <= self.min_p < 1, "a number from 0 to below 1")
        for name, words in (("length_norm", LENGTH_NORMS), ("early_stopping", EARLY_STOPPING)):
            self._require(name, getattr(self, name) in words, f"one of {', '.join(words)}")
        if self.sampling:
            self._require("diversity_groups", self.diversity_groups == 1, "1: samples are drawn apart from each other")
            return
        self._require("n_best", self.n_best <= self.beam_size, f"at most beam_size ({self.beam_size})")
        whole = self.beam_size % self.diversity_groups == 0
        self._require("diversity_groups", whole, f"a divisor of beam_size ({self.beam_size})")

    @property
    def beams(self) -> int:
        """Prefixes that are followed at a time."""
        return self.n_best if self.sampling else self.beam_size

    @property
    def normalized(self) -> bool:
        """Whether log-probabilities are wanted or needed."""
        return self.scored or self.sampling or self.beam_size > 1

    def max_length(self, source_length: int) -> int:
        """The most tokens, eos included, for a source of that many tokens."""
        return int(self.max_length_ratio * source_length) + self.max_length_offset

    def score(self, log_prob: float, length: int) -> float:
        """What hypotheses are ranked by; `length` counts eos."""
        return log_prob / float(self.norm(length))

    def norm(self, length: int) -> float:
        """What a log-probability of an output of that length is divided by."""
        base = length if self.length_norm == "power" else (5 + length) / 6
        return math.pow(base, self.length_penalty)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)}", fix=f"set {name} to {expected}")
