"""Numbers as people write them."""

from typing import Any

import pytest

from pytorch_dl.config import Config
from pytorch_dl.config.units import parse_column, parse_count, parse_number, parse_seconds, written


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500", 500),
        ("100k", 100_000),
        ("2m", 2_000_000),
        ("2M", 2_000_000),
        ("1.5k", 1500),
        ("1.005k", 1005),
        ("2.3m", 2_300_000),
        ("1g", 10**9),
        ("1B", 10**9),
        ("1_000", 1000),
        (" 7 k ", 7000),
        ("0.1", 0.1),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_counts(text: str, number: float) -> None:
    parsed = parse_count(text)
    assert parsed == number
    assert type(parsed) is type(number)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("90 sec", 90),
        ("45min", 2700),
        ("2m", 120),
        ("2h", 7200),
        ("1.5H", 5400),
        ("1d", 86400),
    ],
)
def test_times(text: str, seconds: int) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("parse", [parse_count, parse_seconds, parse_number, parse_column])
@pytest.mark.parametrize("value", [3, 2.5, None, [1]])
def test_what_is_not_a_word_is_passed_on(parse: Any, value: object) -> None:
    assert parse(value) == ("3" if parse is parse_column and value == 3 else value)


@pytest.mark.parametrize("text", ["", "k", "-5", "5 kk", "1e3", "1,000", "5h", ".5k", "1k2", "٣"])
def test_counts_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a number such as 500, 100k or 2m, got ") as error:
        parse_count(text)
    assert str(error.value).endswith(repr(text))


@pytest.mark.parametrize("text", ["soon", "1h30", "5k", "-2h"])
def test_times_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a time such as 90s, 45min or 2h, got ") as error:
        parse_seconds(text)
    assert str(error.value).endswith(repr(text))


def test_switches_are_not_numbers() -> None:
    for parse, expected in (
        (parse_count, "a number such as 500, 100k or 2m"),
        (parse_seconds, "a time such as 90s, 45min or 2h"),
        (parse_number, "a number"),
    ):
        with pytest.raises(ValueError, match=f"^expected {expected}, got true$"):
            parse(True)
    assert parse_column(True) is True  # left for the field to refuse


def test_settings_read_units() -> None:
    config = Config().update(
        training={"max_steps": "100k", "time_limit": "45min", "eval_every": 1e3},
        scheduler={"warmup": "4k"},
        data={"vocab_size": "32k", "src_column": 1, "tgt_column": "2"},
    )
    assert (config.training.max_steps, config.training.time_limit, config.training.eval_every) == (100_000, 2700, 1000)
    assert (config.scheduler.warmup, config.data.vocab_size) == (4000, 32_000)
    assert (config.data.src_column, config.data.tgt_column) == ("1", "2")
    assert isinstance(config.training.eval_every, int)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.00"),
        (-3.14159, "-3.14"),
        (999_999.0, "999999.00"),
        (1e6, "1.0e+06"),
        (1.234e308, "1.2e+308"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_written(number: float, text: str) -> None:
    assert written(number, 2) == text
