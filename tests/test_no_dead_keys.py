"""No setting is dead: each, changed alone from a base in which it is active, changes something that can be seen."""

from pathlib import Path

import pytest
from changing_settings import CHANGES, TEXTS, Seen, batches, leaves, look, model, trainer, training, write_texts

from pytorch_dl.config import Config


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"))


known: dict[str, Seen] = {}


@pytest.mark.parametrize("leaf", CHANGES)
def test_each_setting_changes_something(leaf, texts, tmp_path, monkeypatch):
    base, value, observe, part = CHANGES[leaf]
    key = f"{observe} {sorted(base.items(), key=str)}"
    before = known.get(key) or look(observe, base, texts, tmp_path / "base", monkeypatch)
    known[key] = before
    setting = "data.corpora" if leaf.startswith("data.corpora") else leaf
    after = look(observe, {**base, setting: value}, texts, tmp_path / "changed", monkeypatch)
    assert before[part] != after[part], f"{leaf} is dead"


@pytest.mark.parametrize("observe", [model, batches, training, trainer])
def test_what_is_seen_is_the_same_when_nothing_changes(observe, texts, tmp_path, monkeypatch):
    first = look(observe, TEXTS, texts, tmp_path / "first", monkeypatch)
    second = look(observe, TEXTS, texts, tmp_path / "second", monkeypatch)
    assert first == second


def test_every_setting_is_in_the_table():
    assert leaves(Config) == CHANGES.keys()
