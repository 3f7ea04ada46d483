"""What a client asks for: the body of POST /translate, checked key by key."""

import json
from dataclasses import dataclass
from typing import Any

from pytorch_dl.errors import ConfigError

MAX_BEAM = 10


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may ask for."""

    lines: int = 100
    """Texts of one request."""
    characters: int = 2000
    """Of one text."""
    waiting_lines: int = 1000
    """Of all requests that are not answered yet."""
    seconds: float = 60.0
    """From a whole request to its answer."""
    body_seconds: float = 15.0
    """For a request to come in."""
    body_bytes: int = 0
    """0: as many as the texts may have, 12 for a character, the longest way to write one down in JSON."""

    def __post_init__(self) -> None:
        if self.lines > self.waiting_lines:
            raise ConfigError(
                f"{self.lines:,} lines of a request are more than the {self.waiting_lines:,} that may wait",
                fix="raise --max-waiting, or lower --max-lines",
            )
        if not self.body_bytes:
            object.__setattr__(self, "body_bytes", max(1 << 20, 12 * self.lines * self.characters + 16 * self.lines))


class Refused(Exception):
    """An answer other than a translation: the HTTP status and what to tell."""

    def __init__(self, status: int, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


@dataclass(frozen=True)
class Settings:
    """How texts are to be translated; texts of equal settings go together."""

    beam: int = 5
    nbest: int = 1
    attention: bool = False


@dataclass(frozen=True)
class Wish:
    """One request."""

    texts: list[str]
    settings: Settings


def parse(body: bytes, limits: Limits) -> Wish:
    """The request in a body; raises Refused with 400 for what is no JSON object and 422 for what it may not hold."""
    values = _object(body)
    for key in values:
        if key not in ("text", "beam", "nbest", "attention"):
            raise Refused(422, f"unknown key {_shown(key)}: there are text, beam, nbest and attention")
    texts = _texts(values, limits)
    settings = Settings(_count(values, "beam", 5), _count(values, "nbest", 1), _flag(values, "attention"))
    if settings.attention and len(texts) > 1:
        raise Refused(422, "attention is given for one text at a time")
    return Wish(texts, settings)


def _object(body: bytes) -> dict[str, Any]:
    try:
        values = json.loads(body.decode())
    except UnicodeDecodeError:
        raise Refused(400, "the body is not UTF-8") from None
    except (ValueError, RecursionError):
        raise Refused(400, 'the body is not JSON: send {"text": "..."}') from None
    if not isinstance(values, dict):
        raise Refused(400, 'the body is not a JSON object: send {"text": "..."}')
    return values


def _texts(values: dict[str, Any], limits: Limits) -> list[str]:
    text = values.get("text")
    texts: list[Any] = text if isinstance(text, list) else [text]
    if not texts or not all(isinstance(one, str) for one in texts):
        raise Refused(422, "text must be a text or a list of texts")
    if len(texts) > limits.lines:
        raise Refused(422, f"{len(texts):,} texts are too many: send at most {limits.lines:,} at a time")
    for one in texts:
        if len(one) > limits.characters:
            raise Refused(422, f"a text of {len(one):,} characters is too long: {limits.characters:,} are the most")
        if "\0" in one or any("\ud800" <= letter <= "\udfff" for letter in one):
            raise Refused(422, "a text holds a NUL or half a surrogate pair, which are no characters")
    return texts


def _count(values: dict[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if type(value) is not int or not 1 <= value <= MAX_BEAM:  # True is an int as well
        raise Refused(422, f"{key} must be a whole number from 1 to {MAX_BEAM}")
    return value


def _flag(values: dict[str, Any], key: str) -> bool:
    value = values.get(key, False)
    if not isinstance(value, bool):
        raise Refused(422, f"{key} must be true or false")
    return value


def _shown(key: str) -> str:
    return ascii(key if len(key) <= 40 else f"{key[:40]}...")
