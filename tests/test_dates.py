"""The bundled corpus of dates: what is in the files, and that the script which made them makes them again."""

import datetime
import importlib.util
import lzma
import re
import unicodedata
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytorch_dl.data import SPLITS, dates_file
from pytorch_dl.errors import ConfigError

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_dates.py"

# Written by hand, not by the script; the first 18 are one for each language.
BY_HAND = {
    "Thursday, March 7th, 2024": "2024-03-07",
    "Donnerstag, den 7. März 2024": "2024-03-07",
    "le 1er mars 2024": "2024-03-01",
    "jueves, 7 de marzo de 2024": "2024-03-07",
    "giovedì 7 marzo 2024": "2024-03-07",
    "quinta-feira, 7 de março de 2024": "2024-03-07",
    "donderdag 7 maart 2024": "2024-03-07",
    "torsdag den 7 mars 2024": "2024-03-07",
    "torsdag den 7. marts 2024": "2024-03-07",
    "torstaina 7. maaliskuuta 2024": "2024-03-07",
    "czwartek, 7 marca 2024": "2024-03-07",
    "čtvrtek 7. března 2024": "2024-03-07",
    "2024. március 7., csütörtök": "2024-03-07",
    "joi, 7 martie 2024": "2024-03-07",
    "7 Mart 2024 Perşembe": "2024-03-07",
    "1η Μαρτίου 2024": "2024-03-01",
    "четверг, 7 марта 2024 г.": "2024-03-07",
    "2024年3月7日(木)": "2024-03-07",
    "22nd of February 1999": "1999-02-22",
    "11TH MAY 2011": "2011-05-11",
    "1º de janeiro de 1900": "1900-01-01",
    "7.3.2024": "2024-03-07",
    "2024.03.07.": "2024-03-07",
    "16 NİSAN 2033": "2033-04-16",
    "ΤΕΤΑΡΤΗ 6 ΜΑΪΟΥ 1959": "1959-05-06",
    "Vendredi 29 février 2008": "2008-02-29",
    "6 listopada 2024 r.": "2024-11-06",
    "31 dic 2099": "2099-12-31",
}
# March in sixteen of the languages (es, sv write it as it, fr).
MARCH = (
    *("March", "März", "mars", "marzo", "março", "maart", "marts", "maaliskuuta"),
    *("marca", "března", "március", "martie", "Mart", "Μαρτίου", "марта", "3月"),
)


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[tuple[str, str]]]:
    return {split: read(split) for split in SPLITS}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    babel = pytest.importorskip("babel")
    spec = importlib.util.spec_from_file_location("make_dates", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if babel.__version__ != module.BABEL_VERSION:
        pytest.skip(f"the corpus is made with Babel {module.BABEL_VERSION}, here is {babel.__version__}")
    return module


@pytest.fixture(scope="module")
def made(script: ModuleType) -> dict[str, list[Any]]:
    return script.corpus()  # type: ignore[no-any-return]


def read(split: str) -> list[tuple[str, str]]:
    lines = lzma.decompress(dates_file(split).read_bytes()).decode().split("\n")
    assert lines.pop() == ""
    return [(written, iso) for written, iso in (line.split("\t") for line in lines)]


def test_sizes(corpus: dict[str, list[tuple[str, str]]]) -> None:
    assert {split: len(pairs) for split, pairs in corpus.items()} == {"train": 30_000, "val": 1_000, "test": 1_000}
    assert sum(dates_file(split).stat().st_size for split in SPLITS) < 500_000


def test_no_day_is_in_two_splits(corpus: dict[str, list[tuple[str, str]]]) -> None:
    days = {split: {iso for _, iso in pairs} for split, pairs in corpus.items()}
    assert not days["train"] & days["val"] and not days["train"] & days["test"] and not days["val"] & days["test"]


def test_no_written_date_means_two_days(corpus: dict[str, list[tuple[str, str]]]) -> None:
    meaning: dict[str, str] = {}
    for written, iso in (pair for pairs in corpus.values() for pair in pairs):
        assert meaning.setdefault(written, iso) == iso
        assert not re.search(r"\d[/-]\d+[/-]\d{4}", written)
    assert len(meaning) == 32_000


def test_every_line_is_a_clean_text_and_a_valid_day(corpus: dict[str, list[tuple[str, str]]]) -> None:
    for written, iso in (pair for pairs in corpus.values() for pair in pairs):
        day = datetime.date.fromisoformat(iso)
        assert day.isoformat() == iso and 1900 <= day.year <= 2099
        assert re.findall(r"\d{3,}", written) == [str(day.year)]
        assert unicodedata.is_normalized("NFC", written) and written == " ".join(written.split())
        assert all(character == " " or unicodedata.category(character)[0] in "LNPS" for character in written)


def test_train_covers_years_days_and_months_of_each_language(corpus: dict[str, list[tuple[str, str]]]) -> None:
    isos = [iso for _, iso in corpus["train"]]
    assert min(Counter(iso[:4] for iso in isos).values()) > 100
    assert Counter(iso[5:] for iso in isos).keys() == {f"{day:%m-%d}" for day in days_of_leap_year()}
    train = [written for written, _ in corpus["train"]]
    assert len(MARCH) == 16
    for name in MARCH:
        assert sum(name in written for written in train) >= 30, name


def days_of_leap_year() -> list[datetime.date]:
    return [datetime.date(2024, 1, 1) + datetime.timedelta(days=number) for number in range(366)]


def test_an_unknown_split_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no split 'dev'. Fix: choose one of train, val, test"):
        dates_file("dev")


def test_the_script_makes_the_same_corpus(made: dict[str, list[Any]], corpus: dict[str, list[tuple[str, str]]]) -> None:
    assert {split: [(pair.written, pair.iso) for pair in pairs] for split, pairs in made.items()} == corpus


def test_train_covers_each_form_of_each_language(script: ModuleType, made: dict[str, list[Any]]) -> None:
    train = made["train"]
    assert len({pair.locale.split("_")[0] for pair in train}) == 18
    months = Counter((pair.locale, pair.form, pair.iso[5:7]) for pair in train)
    assert len(months) == 12 * sum(len(script.forms(locale)) for locale in script.LOCALES)
    assert min(months.values()) >= 5
    cases = Counter((pair.locale, pair.iso[5:7], pair.case) for pair in train)
    assert len(cases) == 12 * len(script.LOCALES) * len(script.CASES) and min(cases.values()) >= 10
    days = Counter((pair.locale, pair.iso[8:]) for pair in train)
    assert len(days) == 31 * len(script.LOCALES) and min(days.values()) >= 15


def test_no_date_that_the_script_can_write_is_ambiguous(script: ModuleType) -> None:
    assert list(script.ambiguities()) == []


def test_ambiguities_are_found(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LOCALES", ("pl", "hr"))  # listopada: November in Polish, October in Croatian
    monkeypatch.setitem(script.MORE_FORMS, "hr", ("{d} {MMMM} {y}", "{d}/{M}/{y}", "{d}{y}"))
    found = list(script.ambiguities())
    assert any(re.fullmatch(r"1 listopada \d{4} is (\d{4})-10-01 and \1-11-01 \(pl\)", line) for line in found)
    assert "hr: {d}/{M}/{y} is read as day-month by some and month-day by others" in found
    assert "hr: {d}{y} does not hold the year once and apart" in found


@pytest.mark.parametrize(("written", "iso"), BY_HAND.items())
def test_dates_written_by_hand_are_among_the_writings(script: ModuleType, written: str, iso: str) -> None:
    day = datetime.date.fromisoformat(iso)
    assert written in {pair.written for locale in script.LOCALES for pair in script.writings(day, locale)}
