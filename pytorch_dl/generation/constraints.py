"""What a user wants of the words of an output, and what that is in tokens."""

import dataclasses
import re
from collections.abc import Sequence

from pytorch_dl.dataset.tokenizer import Tokenizer
from pytorch_dl.errors import ConfigError
from pytorch_dl.generation.hypothesis import Request

Run = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Constraints:
    """Words that an output of one line begins with, never holds, or must hold."""

    prefix: str = ""
    banned: tuple[str, ...] = ()
    """Words or phrases, which may still stand inside of longer words."""
    required: tuple[str, ...] = ()
    """Words or phrases, each in any place."""

    def __post_init__(self) -> None:
        for kind in ("banned", "required"):
            if any(not text.strip() for text in getattr(self, kind)):
                raise ConfigError(f"a {kind} text is blank", fix="give a word or a phrase")
        for text in self.banned:
            for other in (self.prefix, *self.required):
                if holds(other, text):
                    raise ConfigError(f"{other!r} is asked for and holds {text!r}, which is banned", fix="drop one")

    def request(self, source: Sequence[int], tokenizer: Tokenizer, *, number: int) -> Request:
        """The request for a source, in the tokens of the target."""
        prefix, *required = (tuple(tokenizer.encode(text)) for text in (self.prefix, *self.required))
        # A word at the beginning of a text and one after a blank may be different tokens.
        banned = {tuple(tokenizer.encode(form)) for text in self.banned for form in (text, f" {text}")}
        return Request(source, number, prefix, tuple(sorted(banned - {()})), tuple(required))

    def broken(self, ids: Sequence[int], tokenizer: Tokenizer) -> Run | None:
        """The tokens by which an output holds a banned text all the same: words can be spelled in many ways."""
        whole = tokenizer.decode(ids)
        for text in self.banned:
            if holds(whole, text):
                ends = range(1, len(ids) + 1)
                end = next(end for end in ends if holds(tokenizer.decode(ids[:end]), text))
                start = next(start for start in reversed(range(end)) if holds(tokenizer.decode(ids[start:end]), text))
                return tuple(ids[start:end])
        return None


def holds(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text as words of their own."""
    return re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", text) is not None
