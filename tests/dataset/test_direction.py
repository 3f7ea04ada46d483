"""Which way round pairs are: told where the two sides differ in kind, and never where they do not."""

import gzip
import lzma
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pytorch_dl.data import dates_file
from pytorch_dl.dataset.check import check
from pytorch_dl.dataset.direction import FEWEST, FEWEST_TRAIN, Pair, swapped
from pytorch_dl.dataset.text_files import TextSource
from scripts import make_scan

Pairs = list[Pair]
WORDS = (
    ["a", "the", "dog", "cat", "runs", "sleeps", "house", "red", "over", "under"],
    ["ein", "der", "Hund", "Katze", "läuft", "schläft", "Haus", "rot", "über"],
)


def turned(pairs: Pairs) -> Pairs:
    return [(tgt, src) for src, tgt in pairs]


def sentences(count: int, *, seed: int, sides: tuple[int, int] = (0, 1)) -> Pairs:
    """Of as many words on both sides, so that lengths tell nothing."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        length = rng.randrange(3, 9)
        src, tgt = (" ".join(rng.choices(WORDS[side], k=length)) for side in sides)
        pairs.append((src, tgt))
    return pairs


def lines(path: Path) -> list[str]:
    read = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with read(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def tsv(path: Path) -> Pairs:
    return [(src, tgt) for src, _, tgt in (line.partition("\t") for line in lines(path))]


def real(name: str, train: str, held_out: str, folder: Path) -> tuple[Pairs, Pairs]:
    """Training and test text of a task; skips where it is not on this machine."""
    if name == "dates":
        return tsv(dates_file("train")), tsv(dates_file("test"))
    if name == "scan":
        make_scan.write(folder)
        return tsv(folder / train), tsv(folder / held_out)
    data = Path(os.environ.get("PYTORCH_DL_DATA", "../shared/data")) / name
    if not data.is_dir():
        pytest.skip(f"no {name} in {data.parent}: set PYTORCH_DL_DATA")
    if name == "cmudict":
        return tsv(data / train), tsv(data / held_out)
    first, second = (
        list(zip(*(lines(data / f"{text}.{side}.gz") for side in ("en", "de")), strict=True))
        for text in (train, held_out)
    )
    return first, second


TASKS = [
    ("dates", "train", "test"),
    ("scan", "random/train.tsv", "random/test.tsv"),
    ("scan", "composition/train.tsv", "composition/test.tsv"),
    ("cmudict", "train.tsv.gz", "test.tsv.gz"),
    ("multi30k", "train", "val"),
    ("multi30k", "train", "test_2017_flickr"),
]


@pytest.mark.parametrize(("name", "train", "held_out"), TASKS)
def test_real_tasks(name: str, train: str, held_out: str, tmp_path: Path) -> None:
    known, others = real(name, train, held_out, tmp_path)
    assert len(known) > 1000 and len(others) > 500
    assert swapped(known, others) is None
    assert swapped(known, turned(others)) > 0.9
    assert swapped(known[:FEWEST_TRAIN], others[:FEWEST]) is None
    copies = [[(src, src) for src, _ in pairs] for pairs in (known, others)]
    assert swapped(*copies) is None


def test_lengths_tell_nothing() -> None:
    """One kind of text, twice as long on one side."""
    long = [(f"{src} {tgt}", src) for src, tgt in sentences(1000, seed=0, sides=(0, 0))]
    assert swapped(long[:700], long[700:]) is None
    assert swapped(long[:700], turned(long[700:])) is None


def test_one_kind_of_text_on_both_sides() -> None:
    same, others = sentences(700, seed=0, sides=(0, 0)), sentences(300, seed=1, sides=(0, 0))
    assert swapped(same, turned(others)) is None
    noise = [[(src.replace("e", "", 1), src) for src, _ in pairs] for pairs in (same, others)]
    assert swapped(*noise) is None


@pytest.mark.parametrize(("copies", "told"), [(0.3, True), (0.9, False)])
def test_a_training_text_with_copies(copies: float, told: bool) -> None:
    train = [(src, src if i < copies * 700 else tgt) for i, (src, tgt) in enumerate(sentences(700, seed=0))]
    assert (swapped(train, turned(sentences(300, seed=1))) is not None) == told
    assert swapped(train, sentences(300, seed=1)) is None


@pytest.mark.parametrize("turn", [turned, sorted])
def test_a_training_text_of_both_directions(turn: Callable[[Pairs], Pairs]) -> None:
    """A tenth the other way round is enough: both are learnt, and either may be tested."""
    one, other = sentences(630, seed=0), turned(sentences(70, seed=1))
    train = [pair for pairs in zip(one[::9], other, strict=True) for pair in pairs]
    assert swapped(train, turned(sentences(300, seed=2))) is None
    assert swapped([*one, *other], turn(sentences(300, seed=2))) is None


def test_texts_of_another_kind_are_not_called_swapped() -> None:
    train = sentences(700, seed=0)
    for other in ((0, 0), (1, 1)):
        assert swapped(train, sentences(300, seed=1, sides=other)) is None
    digits = [(str(number), str(number * number)) for number in range(300)]
    assert swapped(train, digits) is None and swapped(train, turned(digits)) is None
    half = [*sentences(150, seed=1), *turned(sentences(150, seed=2))]
    assert swapped(train, half) is None


@pytest.mark.parametrize(("train", "held_out", "told"), [(100, 20, True), (99, 20, False), (100, 19, False)])
def test_of_few_pairs_nothing_is_told(train: int, held_out: int, told: bool) -> None:
    wrong = swapped(sentences(train, seed=0), turned(sentences(held_out, seed=1)))
    assert wrong == (1.0 if told else None)


def write(path: Path, pairs: Pairs) -> TextSource:
    path.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs), encoding="utf-8")
    return TextSource(str(path))


@pytest.mark.parametrize("what", ["validation", "test"])
def test_the_check_warns_of_swapped_text(what: str, tmp_path: Path) -> None:
    train, pairs = write(tmp_path / "train.tsv", sentences(3000, seed=0)), sentences(500, seed=1)
    right, wrong = write(tmp_path / "right.tsv", pairs), write(tmp_path / "wrong.tsv", turned(pairs))
    both = {"validation": ([wrong], [right]), "test": ([right], [wrong])}[what]
    (said,) = [text for text in check([train], *both).warnings if "swapped" in text]
    assert said.startswith(f"{what} text: in 100 % of a sample of its pairs the source looks like the targets")
    assert not [text for text in check([train], [right], [right]).warnings if "swapped" in text]


def test_of_a_large_text_a_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Pair]] = []
    monkeypatch.setattr("pytorch_dl.dataset.findings.swapped", lambda *texts: seen.extend(texts))
    long = [(f"{src} " * 100, tgt) for src, tgt in sentences(1300, seed=0)]
    check([write(tmp_path / "a.tsv", long)], [write(tmp_path / "b.tsv", sentences(50, seed=1))])
    assert [len(pairs) for pairs in seen] == [600, 50]
    assert max(len(text) for pairs in seen for pair in pairs for text in pair) == 200


def test_the_sample_is_of_the_whole_text(tmp_path: Path) -> None:
    """The second half of a training text of two directions counts as well."""
    both = write(tmp_path / "both.tsv", [*sentences(1000, seed=0), *turned(sentences(1000, seed=1))])
    other = write(tmp_path / "other.tsv", turned(sentences(300, seed=2)))
    assert not [text for text in check([both], [other]).warnings if "swapped" in text]
