"""Numbers as people write them: 100k steps, 2m pairs, 45min."""

import re
from decimal import Decimal

_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_DIGITS = r"[0-9][0-9_]{0,24}(?:\.[0-9]+)?"
_MANY = 1e6  # from where on digits are counted for the reader
_NUMBER = re.compile(rf"\s*({_DIGITS})\s*([a-zA-Z]*)\s*")
# What of it a schema tells an editor.
COUNT_PATTERN, SECONDS_PATTERN = (
    rf"^{_DIGITS} ?({'|'.join(sorted(units) + sorted(unit.upper() for unit in units if unit))})$"
    for units in (_COUNTS, _SECONDS)
)


def parse_count(value: object) -> object:
    """Read `100k` as 100000; what is not a string is passed on."""
    return _parse(value, _COUNTS, "a number such as 500, 100k or 2m")


def parse_seconds(value: object) -> object:
    """Read `45min` as 2700 seconds; what is not a string is passed on."""
    return _parse(value, _SECONDS, "a time such as 90s, 45min or 2h")


def parse_number(value: object) -> object:
    """Refuse true and false, which Python counts among the numbers; pass on the rest."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


def parse_column(value: object) -> object:
    """Read the number of a column as its name; what is not a whole number is passed on."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def written(value: float, digits: int) -> str:
    """A number with so many digits behind the point; from a million on as 1.2e+06."""
    return f"{value:.{digits}f}" if abs(value) < _MANY else f"{value:.1e}"


def _parse(value: object, units: dict[str, int], expected: str) -> object:
    if isinstance(value, bool):
        raise ValueError(f"expected {expected}, got {str(value).lower()}")
    if not isinstance(value, str):
        return value
    match = _NUMBER.fullmatch(value)
    if not match or match[2].lower() not in units:
        raise ValueError(f"expected {expected}, got {value!r}")
    number = Decimal(match[1].replace("_", "")) * units[match[2].lower()]  # exact: 1.005k is 1005
    return int(number) if number == number.to_integral_value() else float(number)
