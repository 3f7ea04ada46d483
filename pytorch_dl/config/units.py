"""Numbers as people write them: 100k steps, 2m pairs, 45min."""

import re

_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_NUMBER = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")


def parse_count(value: object) -> object:
    """Read `100k` as 100000; what is not a string is passed on."""
    return _parse(value, _COUNTS, "a number such as 500, 100k or 2m")


def parse_seconds(value: object) -> object:
    """Read `45min` as 2700 seconds; what is not a string is passed on."""
    return _parse(value, _SECONDS, "a time such as 90s, 45min or 2h")


def _parse(value: object, units: dict[str, int], expected: str) -> object:
    if isinstance(value, bool):
        raise ValueError(f"expected {expected}, got {str(value).lower()}")
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value)
    if not match or match[2].lower() not in units:
        raise ValueError(f"expected {expected}, got {value!r}")
    number = float(match[1].replace("_", "")) * units[match[2].lower()]
    return int(number) if number.is_integer() else number
