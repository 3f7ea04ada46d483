"""Make the bundled corpus of dates: `python scripts/make_dates.py` with Babel 2.18.0 (CLDR 47).

In: month and weekday names and date patterns of the CLDR, and the few forms below that people write besides them.
Out: train.tsv.xz, val.tsv.xz, test.tsv.xz in pytorch_dl/data/dates, lines of `written date TAB ISO 8601 date`.
The same bytes each time; no date of one file is in another; no written date means two days.
"""

import calendar
import datetime
import hashlib
import lzma
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import babel
from babel import Locale
from babel.dates import parse_pattern

BABEL_VERSION = "2.18.0"
FOLDER = Path(__file__).resolve().parent.parent / "pytorch_dl" / "data" / "dates"
SIZES = {"test": 1_000, "val": 1_000, "train": 30_000}
YEARS = range(1900, 2100)
SEED = "pytorch-dl dates 1"

# Forms that people write besides those of the CLDR; {nth} is the ending of an ordinal, see `ordinal_ending`.
MORE_FORMS = {
    "en": (
        "{MMMM} {d}{nth}, {y}",
        "{EEEE}, {MMMM} {d}{nth}, {y}",
        "{d}{nth} of {MMMM} {y}",
        "{d}{nth} of {MMMM}, {y}",
    ),
    "en_GB": ("{EEEE} {d} {MMMM} {y}", "{d}{nth} {MMMM} {y}", "{EEEE} {d}{nth} {MMMM} {y}"),
    "de": ("{EEEE}, den {d}. {MMMM} {y}", "{d}.{M}.{y}"),
    "fr": ("{d}{nth} {MMMM} {y}", "le {d}{nth} {MMMM} {y}", "{EEEE} {d}{nth} {MMMM} {y}"),
    "es": ("{d}{nth} de {MMMM} de {y}", "{EEEE} {d} de {MMMM} de {y}", "{d} de {MMMM} del {y}"),
    "it": ("{d}{nth} {MMMM} {y}", "{EEEE} {d}{nth} {MMMM} {y}"),
    "pt": ("{d}{nth} de {MMMM} de {y}", "{EEEE}, {d}{nth} de {MMMM} de {y}"),
    "nl": ("{EEEE}, {d} {MMMM} {y}",),
    "sv": ("den {d} {MMMM} {y}", "{EEEE} den {d} {MMMM} {y}", "{y}-{MM}-{dd}"),
    "da": ("den {d}. {MMMM} {y}", "{EEEE} d. {d}. {MMMM} {y}", "{dd}.{MM}.{y}"),
    "fi": ("{EEEE} {d}. {MMMM} {y}",),
    "pl": ("{d} {MMMM} {y} r.", "{dd}.{MM}.{y}"),
    "cs": ("{d}.{M}.{y}",),
    "hu": ("{y}. {MM}. {dd}.", "{y}.{MM}.{dd}."),
    "ro": ("{dd}.{MM}.{y}",),
    "tr": ("{d} {MMMM} {y}, {EEEE}", "{dd}.{MM}.{y}"),
    "el": ("{d}{nth} {MMMM} {y}", "{EEEE}, {d} {MMMM} {y}"),
    "ru": ("{d} {MMMM} {y} года", "{d} {MMMM} {y}", "{dd}.{MM}.{y}"),
    "ja": ("{y}/{M}/{d}",),
}
LOCALES = tuple(MORE_FORMS)
FIRST_OF_MONTH = {"fr": "er", "es": "º", "it": "º", "pt": "º", "el": "η"}
CASES = ("as is", "sentence", "lower", "upper")

T = TypeVar("T")


class Pair(NamedTuple):
    written: str
    iso: str
    locale: str
    form: str
    case: str


@cache
def forms(locale: str) -> tuple[str, ...]:
    """The ways to write a date in a locale, as `{field}` templates over the fields of `fields`."""
    cldr = Locale.parse(locale)
    patterns = [cldr.date_formats[length].pattern for length in ("full", "long", "medium")]
    patterns.append(cldr.datetime_skeletons["yMMMEd"].pattern)
    templates = [re.sub(r"%\((\w+)\)s", r"{\1}", parse_pattern(pattern).format) for pattern in patterns]
    return tuple(dict.fromkeys((*map(typed, templates), *MORE_FORMS[locale])))


@cache
def names(locale: str, field: str) -> dict[int, str]:
    """The names of the months (from 1) or weekdays (from 0, Monday) that a CLDR field stands for."""
    cldr = Locale.parse(locale)
    width = "wide" if len(field) == 4 else "abbreviated"
    context = "stand-alone" if field[0] == "c" else "format"
    kind = cldr.months if field[0] == "M" else cldr.days
    return {number: typed(name) for number, name in kind[context][width].items()}


def typed(text: str) -> str:
    """The text as a keyboard makes it: composed letters, plain spaces, no invisible marks."""
    return unicodedata.normalize("NFC", text).translate({0x00A0: " ", 0x202F: " ", 0x200E: None, 0x200F: None})


def fields(day: datetime.date, locale: str) -> dict[str, str]:
    """The parts of a date in a locale, named as in CLDR patterns, and `nth`."""
    values = {field: names(locale, field)[day.weekday()] for field in ("E", "EEE", "EEEE", "cccc")}
    values |= {field: names(locale, field)[day.month] for field in ("MMM", "MMMM")}
    values |= {"d": str(day.day), "dd": f"{day.day:02}", "nth": ordinal_ending(day.day, locale.split("_")[0])}
    return values | {"M": str(day.month), "MM": f"{day.month:02}", "y": str(day.year)}


def ordinal_ending(day: int, language: str) -> str:
    """What follows the number in 7th, 1er, 1º; nothing where the language uses the plain number."""
    if language == "en":
        return "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return FIRST_OF_MONTH.get(language, "") if day == 1 else ""


def in_case(text: str, case: str, language: str) -> str:
    """The text as is, with a capital at its start, in lower case or in upper case, by the language's rules."""
    if case == "sentence":
        return upper(text[0], language) + text[1:]
    if case == "lower":
        return (text.replace("İ", "i").replace("I", "ı") if language == "tr" else text).lower()
    return upper(text, language) if case == "upper" else text


def upper(text: str, language: str) -> str:
    if language == "tr":
        text = text.replace("i", "İ")
    if language == "el":  # capitals carry no accent
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).replace("\u0301", ""))
    return text.upper()


def writings(day: datetime.date, locale: str) -> list[Pair]:
    """Every way to write a day in a locale, each form in each case, in the same order for every day."""
    values, iso, language = fields(day, locale), day.isoformat(), locale.split("_")[0]
    spelled = [(form, form.format_map(values)) for form in forms(locale)]
    return [Pair(in_case(text, case, language), iso, locale, form, case) for case in CASES for form, text in spelled]


def ambiguities() -> Iterator[str]:
    """Say which forms, or which written dates, could mean two days in any of all years; nothing if all is well.

    The year stands in each form once, in full and apart from other digits, so dates of different years never look
    alike; and within a year only its 14 kinds of calendar (leap or not, first weekday) differ.
    """
    for locale in LOCALES:
        for form in forms(locale):
            if form.count("{y}") != 1 or re.search(r"[}\d]\{y\}|\{y\}[{\d]", form):
                yield f"{locale}: {form} does not hold the year once and apart"
            if re.search(r"\{(d|M)+\}[/-]", form) and not form.startswith("{y}"):
                yield f"{locale}: {form} is read as day-month by some and month-day by others"
    calendars = {(calendar.isleap(year), datetime.date(year, 1, 1).weekday()): year for year in YEARS}
    for year in calendars.values():
        meaning: dict[str, str] = {}
        for day in days_of([year]):
            for locale in LOCALES:
                for pair in writings(day, locale):
                    if meaning.setdefault(pair.written, pair.iso) != pair.iso:
                        yield f"{pair.written} is {meaning[pair.written]} and {pair.iso} ({locale})"


def days_of(years: range | list[int]) -> Iterator[datetime.date]:
    for year in years:
        first = datetime.date(year, 1, 1).toordinal()
        yield from map(datetime.date.fromordinal, range(first, first + 365 + calendar.isleap(year)))


def corpus() -> dict[str, list[Pair]]:
    """The three splits: each day at most once, locales and their writings in turn, so that all are even."""
    days = iter(drawn(days_of(YEARS)))
    splits: dict[str, list[Pair]] = {}
    for split, size in SIZES.items():
        pairs = []
        for number in range(size):
            turn, place = divmod(number, len(LOCALES))
            ways = writings(next(days), LOCALES[place])
            ways += [pair for pair in ways if pair.case == "as is"]  # twice as often: people do it most
            pairs.append(ways[turn % len(ways)])
        splits[split] = drawn(pairs)
    return splits


def drawn(items: Iterable[T]) -> list[T]:
    """The items in an order drawn by SHA-256: random, and the same in every version of Python."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{SEED} {item}".encode()).digest())


def compressed(pairs: list[Pair]) -> bytes:
    text = "".join(f"{pair.written}\t{pair.iso}\n" for pair in pairs)
    return lzma.compress(text.encode(), lzma.FORMAT_XZ, lzma.CHECK_CRC64, lzma.PRESET_EXTREME | 9)


def main() -> None:
    if babel.__version__ != BABEL_VERSION:
        raise SystemExit(f"needs Babel {BABEL_VERSION}, got {babel.__version__}: pip install babel=={BABEL_VERSION}")
    problems = list(ambiguities())
    if problems:
        raise SystemExit("\n".join(problems))
    for split, pairs in corpus().items():
        (FOLDER / f"{split}.tsv.xz").write_bytes(compressed(pairs))


if __name__ == "__main__":
    main()
