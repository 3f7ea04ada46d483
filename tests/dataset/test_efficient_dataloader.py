"""The front door: which arguments it refuses, which texts it reads, and what it says of pairs that are left out."""

from pathlib import Path

import pytest
from tiny_runs import write_tsv

from pytorch_dl.config import Config
from pytorch_dl.config.model_config import DataConfig
from pytorch_dl.dataset.efficient_dataloader import DataModule, texts_of
from pytorch_dl.dataset.text_files import TextSource
from pytorch_dl.errors import ConfigError, DataError


def data_config(**settings: object) -> DataConfig:
    return Config().update(data=settings).data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": -4}, "config: training.batch_size: expected greater than or equal to 1, got -4"),
        ({"batch_size": 0}, "config: training.batch_size: expected greater than or equal to 1, got 0"),
        ({"max_length": 0}, "config: data.max_length: expected greater than or equal to 1, got 0"),
        (
            {"data": data_config(layout="packed"), "use_dynamic_batching": False},
            "DataModule: data.layout: packed fills rows by tokens and needs data.use_dynamic_batching: true, got false",
        ),
        (
            {"data": data_config(val_split=9), "val_data_path": "val.tsv"},
            "DataModule: data.val_split (9) and data.val_data_path (val.tsv) both give a validation set",
        ),
        (
            {"max_tokens_per_batch": 100},
            "DataModule: data.max_length (128) is above data.max_tokens_per_batch (100)",
        ),
    ],
)
def test_arguments_that_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DataModule("train.tsv", **arguments)
    assert str(caught.value).startswith(message)


def test_rules_of_the_model_are_not_for_the_data() -> None:
    assert DataModule("train.tsv", max_length=600, data=data_config(shared_vocabulary=False)).data.max_length == 600


@pytest.mark.parametrize(("val", "said"), [("train.tsv", True), ("copy.tsv", True), ("part.tsv", False)])
def test_validating_on_the_training_text_is_told(val: str, said: bool, tmp_path: Path) -> None:
    for name, count in (("train.tsv", 20), ("copy.tsv", 20), ("part.tsv", 19)):
        write_tsv(tmp_path / name, count)
    lines: list[str] = []
    paths = str(tmp_path / "train.tsv"), str(tmp_path / val)
    DataModule(*paths, tokenizer_name="byte", cache_dir=tmp_path / "cache", report=lines.append).setup()
    assert any("warning: the validation text is the training text" in line for line in lines) == said


class TestLeftOut:
    @pytest.fixture
    def text(self, tmp_path: Path) -> str:
        lines = ["ab\tba\n"] * 18 + ["a" * 20 + "\tb\n", "a\t" + "b" * 19 + "\n"]
        (tmp_path / "text.tsv").write_text("".join(lines))
        return str(tmp_path / "text.tsv")

    def said(self, text: str, folder: Path, max_length: int) -> list[str]:
        lines: list[str] = []
        module = DataModule(
            text, tokenizer_name="byte", max_length=max_length, cache_dir=folder / "cache", report=lines.append
        )
        module.setup()
        lines.clear()
        module.train_dataloader()
        return lines

    def test_pairs_are_counted_with_the_end_mark(self, text: str, tmp_path: Path) -> None:
        line = "1 of 20 training pairs (5.00 %) are longer than data.max_length (20) and left out"
        assert self.said(text, tmp_path, 21) == []
        assert self.said(text, tmp_path, 20) == [line]

    def test_many_are_a_warning(self, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pytorch_dl.dataset.efficient_dataloader.MANY_LEFT_OUT", 0.09)
        line = "warning: 2 of 20 training pairs (10.00 %) are longer than data.max_length (10) and left out"
        assert self.said(text, tmp_path, 10) == [line]

    def test_all_are_an_error(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"all 20 training pairs are longer than data.max_length \(2\)\. Fix: raise"
        ):
            self.said(text, tmp_path, 2)


class TestLayout:
    def is_packed(self, folder: Path, longest: int, **settings: object) -> bool:
        (folder / "text.tsv").write_text("ab\tba\n" * 9 + "a" * (longest - 1) + "\tb\n")  # and the end mark
        data = data_config(tokenizer_name="byte", max_length=300, **settings)
        module = DataModule(str(folder / "text.tsv"), data=data, cache_dir=folder / "cache", report=lambda _: None)
        module.setup()
        widths = module.train_dataloader().plan(0).widths
        return widths is not None

    @pytest.mark.parametrize(
        ("settings", "longest", "packed"),
        [
            ({}, 256, True),
            ({}, 257, False),
            ({"layout": "packed"}, 257, True),
            ({"layout": "padded"}, 3, False),
            ({"use_dynamic_batching": False}, 3, False),
        ],
    )
    def test_short_text_is_packed(self, settings: dict, longest: int, packed: bool, tmp_path: Path) -> None:
        assert self.is_packed(tmp_path, longest, **settings) == packed


class TestTextsOf:
    def test_nothing_to_train_on(self) -> None:
        with pytest.raises(ConfigError, match=r"there is no training text\. Fix: give --src"):
            texts_of(DataConfig(), seed=1)

    def test_corpora_follow_the_first_text(self) -> None:
        data = data_config(train_data_path="a.tsv", corpora=[{"src": "b", "tgt": "c", "weight": 0.5}], on_blank="drop")
        texts = texts_of(data, seed=1)
        first, second = TextSource("a.tsv", on_blank="drop"), TextSource("b", "c", weight=0.5, on_blank="drop")
        assert texts == ([first, second], [])

    def test_forms_may_be_mixed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("train.en", "train.de", "val.tsv"):
            Path(name).write_text("a\tb\n")
        suffixes = {"src_suffix": "en", "tgt_suffix": "de"}
        texts = texts_of(data_config(train_data_path="train", val_data_path="val.tsv", **suffixes), seed=1)
        assert texts == ([TextSource("train", **suffixes)], [TextSource("val.tsv")])
        names, numbers = {"src_column": "q", "tgt_column": "r"}, {"src_column": "2", "tgt_column": "3"}
        texts = texts_of(data_config(train_data_path="a.jsonl", val_data_path="val.tsv", **names), seed=1)
        assert texts == ([TextSource("a.jsonl", **names)], [TextSource("val.tsv")])
        texts = texts_of(data_config(train_data_path="val.tsv", val_data_path="a.csv", **numbers), seed=1)
        assert texts == ([TextSource("val.tsv", **numbers)], [TextSource("a.csv")])

        Path("v.jsonl").touch()
        both = data_config(train_data_path="train", val_data_path="v.jsonl", **suffixes, **names)
        assert texts_of(both, seed=1) == ([TextSource("train", **suffixes)], [TextSource("v.jsonl", **names)])
        ones = {"src_column": "1", "tgt_column": "2"}
        texts = texts_of(data_config(train_data_path="a.csv", val_data_path="v.csv", **ones), seed=1)
        assert texts == ([TextSource("a.csv", **ones)], [TextSource("v.csv", **ones)])

    def test_columns_may_be_for_another_text_than_the_first(self) -> None:
        names, two = {"src_column": "q", "tgt_column": "r"}, {"train_data_path": "t.en", "train_tgt_path": "t.de"}
        assert texts_of(data_config(**two, **names, test_data_path="t.csv"), seed=1).train == [
            TextSource("t.en", "t.de")
        ]
        texts = texts_of(data_config(**two, **names, val_data_path="v.tsv", corpora=[{"src": "b.csv"}]), seed=1)
        assert texts == ([TextSource("t.en", "t.de"), TextSource("b.csv", **names)], [TextSource("v.tsv")])

    def test_columns_that_no_text_can_have_are_refused(self) -> None:
        with pytest.raises(ConfigError) as caught:
            texts_of(data_config(corpora=[{"src": "a.tsv"}], src_column="q", tgt_column="r"), seed=1)
        assert str(caught.value).startswith("data.src_column (q) is for none of the texts: a.tsv. Fix: columns have")

    def test_columns_that_the_training_text_cannot_have_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"a\.tsv: expected numbers of columns, got q and r"):
            texts_of(data_config(train_data_path="a.tsv", src_column="q", tgt_column="r"), seed=1)

    def test_a_corpus_may_have_options_of_its_own(self) -> None:
        columns, own = {"src_column": "q", "tgt_column": "r"}, {"src_suffix": "en", "tgt_suffix": "de"}
        corpora = [{"src": "b", **own}, {"src": "c.jsonl", "src_column": "x", "tgt_column": "y"}, {"src": "d.jsonl"}]
        texts = texts_of(data_config(corpora=corpora, **columns), seed=1)
        second, third = TextSource("c.jsonl", src_column="x", tgt_column="y"), TextSource("d.jsonl", **columns)
        assert texts.train == [TextSource("b", **own), second, third]

    def test_a_split_is_a_function_of_the_seed(self, tmp_path: Path) -> None:
        data = data_config(train_data_path=str(write_tsv(tmp_path / "text.tsv")), val_split=9)
        kept, held = (side[0] for side in texts_of(data, seed=1))
        assert (len(list(kept)), len(list(held))) == (51, 9)
        assert [pair.src for pair in held] != [pair.src for pair in texts_of(data, seed=2).val[0]]


def test_auto_is_left_to_a_run() -> None:
    with pytest.raises(ConfigError, match=r"DataModule: data.max_tokens_per_batch: auto is found by a run.*a number"):
        DataModule(max_tokens_per_batch="auto")  # type: ignore[arg-type]
