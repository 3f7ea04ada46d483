"""A run trains on the texts that it began with: found, prepared anew before a checkpoint, refused after it."""

import re
from pathlib import Path

import pytest
from tiny_runs import write_tsv
from torch import Tensor

from pytorch_dl.config import Config
from pytorch_dl.dataset.efficient_dataloader import texts_of
from pytorch_dl.dataset.text_pair import Fault, TextPair
from pytorch_dl.errors import CheckpointError, ConfigError, DataError
from pytorch_dl.prepare import prepare, require_same_texts, text_of, text_states
from pytorch_dl.training.peers import ALONE, Peers
from pytorch_dl.training.run_folder import RunFolder

FIRST = [("ab", "ba"), ("cd", "dc")]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def config(text: object) -> Config:
    return Config().update(data={"train_data_path": str(text), "tokenizer_name": "char", "vocab_size": 300})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "text.tsv", 9)


def checkpointed(folder: RunFolder) -> None:
    (folder.checkpoints / "step-00000001").mkdir(parents=True)


def test_the_same_text_is_found_prepared_wherever_it_lies(folder: RunFolder, text: Path, said: list[str]) -> None:
    prepare(folder, config(text), said.append)
    checkpointed(folder)
    said.clear()
    moved = text.rename(text.with_name("moved.tsv"))
    assert len(prepare(folder, config(moved), said.append).train_store or ()) == 9
    assert said == []


def test_a_text_that_is_gone_is_replaced_by_its_prepared_form(folder: RunFolder, text: Path, said: list[str]) -> None:
    prepare(folder, config(text), said.append)
    said.clear()
    text.unlink()
    assert len(prepare(folder, config(text), said.append).train_store or ()) == 9
    assert said == [f"the text cannot be read, its prepared form does instead: {text}: no such file"]


def test_a_text_that_is_gone_before_it_was_prepared_is_an_error(folder: RunFolder, text: Path) -> None:
    text.unlink()
    with pytest.raises(DataError, match=r"text\.tsv: no such file"):
        prepare(folder, config(text), print)


def test_a_data_set_out_of_reach_is_replaced_by_its_prepared_form(
    folder: RunFolder, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable = [True]

    def read_hf(address: str, *, columns: object):
        yield from (TextPair(*pair, line) for line, pair in enumerate(FIRST, 1))
        if not reachable[0]:
            yield Fault("file", "cannot be loaded: no network", where=address, fix="see the network")

    monkeypatch.setattr("pytorch_dl.dataset.text_files.read_hf", read_hf)
    prepare(folder, config("hf://org/name"), said.append)
    tokenizer = (folder.tokenizer / "tokenizer.json").stat().st_mtime_ns
    said.clear()
    reachable[0] = False
    assert len(prepare(folder, config("hf://org/name"), said.append).train_store or ()) == 2
    line = "the text cannot be read, its prepared form does instead: hf://org/name: cannot be loaded: no network"
    assert said == [line]
    assert (folder.tokenizer / "tokenizer.json").stat().st_mtime_ns == tokenizer


def test_a_changed_text_is_prepared_anew_before_the_first_checkpoint(
    folder: RunFolder, text: Path, said: list[str]
) -> None:
    prepare(folder, config(text), said.append)
    said.clear()
    write_tsv(text, 12)
    assert len(prepare(folder, config(text), said.append).train_store or ()) == 12
    assert said[0] == "the text has changed before the first checkpoint: it is prepared anew"
    assert said[1].startswith("tokenizer: char")


def test_a_changed_text_is_refused_after_the_first_checkpoint(folder: RunFolder, text: Path, said: list[str]) -> None:
    prepare(folder, config(text), said.append)
    checkpointed(folder)
    before = folder.data.read_bytes()
    write_tsv(text, 12)
    with pytest.raises(CheckpointError, match=r"the text has changed since the run began: .*text\.tsv has the finger"):
        prepare(folder, config(text), said.append)
    assert folder.data.read_bytes() == before


def test_the_training_text_to_look_at_again(folder: RunFolder, text: Path) -> None:
    held_out = config(text).update(data={"val_split": 2})
    with pytest.raises(DataError, match=r"data\.json: the run does not hold what tells its text"):
        text_of(folder, held_out, "train")
    prepare(folder, held_out, print)
    (found,) = text_of(folder, held_out, "train")
    assert len(list(found)) == 7, "without what was held out"
    text.write_text(text.read_text() + "ab\tba\n")
    with pytest.raises(DataError, match=r"text\.tsv.*: has changed since the run"):
        text_of(folder, held_out, "train")
    text.unlink()
    with pytest.raises(DataError, match=r"text\.tsv: no such file"):
        text_of(folder, held_out, "train")


def test_a_text_that_changes_between_its_record_and_its_store_is_refused(folder: RunFolder, text: Path) -> None:
    said: list[str] = []

    def change_once(line: str) -> None:  # the tokenizers are told of after the record, and before the store
        said.append(line)
        if line.startswith("tokenizer: char") and len(said) == 1:
            write_tsv(text, 12)

    with pytest.raises(DataError, match=rf"text\.tsv: the text changed while it was prepared\. Fix: .*{folder.path}"):
        prepare(folder, config(text), change_once)
    assert len(prepare(folder, config(text), said.append).train_store or ()) == 12
    assert "the text has changed before the first checkpoint: it is prepared anew" in said


def test_the_files_of_a_text(tmp_path: Path, text: Path) -> None:
    data = {"train_data_path": str(text), "val_data_path": "gone.tsv", "corpora": [{"src": str(tmp_path / "more.tsv")}]}
    write_tsv(tmp_path / "more.tsv", 3)
    before = text_states(Config().update(data=data))
    assert before.keys() == {text, tmp_path / "more.tsv"}
    write_tsv(text, 10)
    after = text_states(Config().update(data=data))
    assert [path for path in before if after[path] != before[path]] == [text]
    assert text_states(Config().update(data={"train_data_path": "hf://org/name"})) == {}


class SecondOfTwo(Peers):
    """Rank 1, to which the first process tells its texts."""

    def __init__(self, firsts: dict[str, str]) -> None:
        super().__init__(1, 2)
        self.firsts = firsts

    def tell(self, value: object) -> dict[str, str]:
        return self.firsts

    def add_up(self, numbers: Tensor) -> Tensor:
        return numbers


def test_another_text_at_the_same_path_on_another_process(text: Path) -> None:
    (own,) = [one.fingerprint()[:16] for one in texts_of(config(text).data, seed=1).train]
    told = f"the fingerprints of the text: {text} is '{own}' on rank 1 and 'other' on rank 0. Fix: start all"
    with pytest.raises(ConfigError, match=re.escape(told)):
        require_same_texts(SecondOfTwo({str(text): "other"}), config(text))
    require_same_texts(SecondOfTwo({str(text): own}), config(text))
    require_same_texts(SecondOfTwo({}), config(text))  # the first finds it prepared
    text.unlink()
    require_same_texts(SecondOfTwo({str(text): "other"}), config(text))  # this one does
    require_same_texts(ALONE, config(text))
