"""Texts in memory are read as a file of the same pairs is: lists, records, and a data set of Hugging Face."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tiny_runs import pairs, write_tsv

from pytorch_dl.config.model_config import DataConfig
from pytorch_dl.dataset.efficient_dataloader import DataModule, Texts
from pytorch_dl.dataset.pairs_in_memory import PairsInMemory
from pytorch_dl.dataset.text_files import TextPair, TextSource
from pytorch_dl.errors import ConfigError, DataError

SOME = pairs(30)
SMALL = {"tokenizer_name": "char", "vocab_size": 300, "max_length": 40, "max_tokens_per_batch": 120, "num_workers": 0}


def tuples() -> object:
    return SOME


def lists() -> object:
    return [[*pair] for pair in SOME]


def records() -> object:
    return [{"src": src, "tgt": tgt, "id": number} for number, (src, tgt) in enumerate(SOME)]


def translations() -> object:
    return [{"translation": {"en": src, "de": tgt}} for src, tgt in SOME]


def data_set() -> object:
    return pytest.importorskip("datasets").Dataset.from_list(records())


def nested_data_set() -> object:
    return pytest.importorskip("datasets").Dataset.from_list(translations())


FORMS = [tuples, lists, records, translations, data_set, nested_data_set]


def module(folder: Path, said: list[str] | None = None, **given: object) -> DataModule:
    data = given.pop("data", None) or DataConfig(**SMALL)
    made = DataModule(data=data, cache_dir=folder / "cache", report=(said or []).append, **given)
    made.setup()
    return made


def batches(made: DataModule) -> list[list[list[int]]]:
    return [batch.src.tolist() for epoch in (0, 1) for batch in made.train_dataloader().batches(epoch)]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_batches_of_a_file_with_these_pairs(form: Callable[[], Iterable[object]], tmp_path: Path):
    text = write_tsv(tmp_path / "text.tsv", 30)
    expected = module(tmp_path / "a", data=DataConfig(**SMALL, train_data_path=str(text)))
    made = module(tmp_path / "b", train_pairs=form(), val_pairs=form())
    assert batches(made) == batches(expected)
    assert made.val_store is not None and len(made.val_store) == 30
    assert made.tokenizers.src.fingerprint() == expected.tokenizers.src.fingerprint()


def test_columns_name_the_texts(tmp_path: Path) -> None:
    rows = [{"english": src, "german": tgt, "src": "not this"} for src, tgt in SOME]
    named = DataConfig(**SMALL, src_column="english", tgt_column="german")
    made = module(tmp_path / "a", train_pairs=rows, data=named)
    assert batches(made) == batches(module(tmp_path / "b", train_pairs=SOME))
    with pytest.raises(DataError, match=r"train_pairs:1: expected columns src and tgt, got english, german"):
        module(tmp_path / "c", train_pairs=[{"english": "a", "german": "b"}])


def test_some_are_held_out_as_of_a_file(tmp_path: Path) -> None:
    split = DataConfig(**SMALL, val_split=7)
    made = module(tmp_path, train_pairs=SOME, data=split)
    assert made.train_store is not None and made.val_store is not None
    assert (len(made.train_store), len(made.val_store)) == (23, 7)


def test_what_was_prepared_is_found_again_while_the_pairs_are_the_same(tmp_path: Path) -> None:
    for given, builds in ((SOME, True), ([*SOME], False), (SOME[:-1], True)):
        said: list[str] = ["begun"]
        module(tmp_path, said, train_pairs=given)
        assert any("token store: building" in line for line in said) == builds


def test_it_is_the_stream_that_a_file_is(tmp_path: Path) -> None:
    made, file = PairsInMemory(SOME, "mine"), TextSource(str(write_tsv(tmp_path / "text.tsv", 30)))
    assert [*made] == [*file] == [TextPair(src, tgt, number) for number, (src, tgt) in enumerate(SOME, 1)]
    assert [*made] == [*made]
    assert made.fingerprint() != PairsInMemory(SOME[1:], "mine").fingerprint()
    assert made.fingerprint() == PairsInMemory([*SOME], "other").fingerprint()


def test_blank_sides_are_refused_or_counted(tmp_path: Path) -> None:
    holed = [("a", "b"), ("c", " "), ("", "d"), {"src": None, "tgt": "e"}, ("f", "g")]
    with pytest.raises(DataError, match=r"mine:2: the target is blank"):
        [*PairsInMemory(holed, "mine")]
    dropping = PairsInMemory(holed, "mine", on_blank="drop")
    assert [pair.src for pair in dropping] == ["a", "f"]
    assert dropping.dropped == 3
    said: list[str] = ["begun"]
    module(tmp_path, said, train_pairs=holed, data=DataConfig(**SMALL, on_blank="drop"))
    assert "train_pairs: 3 pairs with a blank side are left out" in said
    with pytest.raises(DataError, match="mine: no pair is left"):
        [*PairsInMemory([], "mine")]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("ab", "expected a pair of texts or a record with named fields, got str"),
        (("a", "b", "c"), "got tuple"),
        (7, "got int"),
        (("a", 7), "tgt is 7, expected a text"),
        (("a", "b\ud800"), "holds half a character"),
    ],
)
def test_what_is_no_pair_is_named_with_its_place(item: object, told: str) -> None:
    with pytest.raises(DataError, match="mine:2: ") as raised:
        [*PairsInMemory([("a", "b"), item], "mine")]
    assert told in str(raised.value)
    with pytest.raises(DataError, match="mine:2: "):
        PairsInMemory([("a", "b"), item], "mine").fingerprint()


def test_what_can_be_gone_through_once_only_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train_pairs: a generator can be .* once only\. Fix: give a list"):
        module(tmp_path, train_pairs=(pair for pair in SOME))
    with pytest.raises(ConfigError, match="a zip can be gone through once only"):
        PairsInMemory(zip("ab", "cd", strict=True))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"val_pairs": SOME}, "val_pairs with train_pairs only"),
        ({"train_pairs": SOME, "texts": Texts([], [])}, "train_pairs or texts"),
        ({"train_pairs": SOME, "train_data_path": "a.tsv"}, "pairs in memory and data.train_data_path exclude"),
        ({"train_pairs": SOME, "val_data_path": "a.tsv"}, "pairs in memory and data.val_data_path exclude"),
        (
            {"train_pairs": SOME, "val_pairs": SOME, "data": DataConfig(**SMALL, val_split=3)},
            "pairs in memory and data.val_split exclude each other",
        ),
    ],
)
def test_texts_that_exclude_each_other(given: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        module(tmp_path, **given)
