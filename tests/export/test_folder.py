"""A folder is whole or not there, and nothing but an older export is ever replaced."""

import json
from pathlib import Path

import pytest

from pytorch_dl.errors import ConfigError
from pytorch_dl.export.folder import NOTES, Origin, exported_folder, write_notes
from pytorch_dl.files import damage


def fill(folder: Path, text: str) -> None:
    (folder / "weights").write_text(text)
    origin = Origin("runs/mine", "1.2.3")
    write_notes(folder, to="ctranslate2", origin=origin, versions={"engine": "4"}, weights="int8", parity={})


def test_an_older_export_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("old", "new"):
        with exported_folder(out) as new:
            fill(new, text)
    assert (out / "weights").read_text() == "new"
    assert damage(out) is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    with exported_folder(tmp_path) as new:
        fill(new, "new")
    assert (tmp_path / "weights").read_text() == "new"


@pytest.mark.parametrize("name", ["notes.txt", "deep/down/notes.txt", ".hidden"])
def test_an_export_to_which_a_file_was_added_is_left_alone(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    with exported_folder(out) as new:
        fill(new, "old")
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(ConfigError) as raised, exported_folder(out) as new:
        fill(new, "new")
    assert str(raised.value) == (
        f"{out}: it is there already and holds the file {name}, which is not of an export. "
        "Fix: choose another --out, or move it away."
    )
    assert (out / "weights").read_text() == "old"


@pytest.mark.parametrize("manifest", [None, "{}", "[1]", "3", "no json", '{"weights": "0"}'])
def test_another_folder_is_left_alone(tmp_path: Path, manifest: str | None) -> None:
    (tmp_path / "weights").write_text("mine")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigError, match="it is there already and holds the file "), exported_folder(tmp_path) as new:
        fill(new, "new")
    assert (tmp_path / "weights").read_text() == "mine"


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"), exported_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_after_an_error_all_is_as_before(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with exported_folder(out) as new:
        fill(new, "old")
    with pytest.raises(RuntimeError), exported_folder(out) as new:
        fill(new, "new")
        raise RuntimeError
    assert (out / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_notes_tell_the_command_and_the_versions(tmp_path: Path) -> None:
    fill(tmp_path, "new")
    notes = json.loads((tmp_path / NOTES).read_bytes())
    assert notes["command"] == "pytorch-dl export runs/mine --to ctranslate2 --quantization int8"
    assert (notes["weights"], notes["versions"]["pytorch-dl"], notes["versions"]["engine"]) == ("int8", "1.2.3", "4")
    assert (
        "Made by `pytorch-dl export runs/mine --to ctranslate2 --quantization int8`"
        in (tmp_path / "README.md").read_text()
    )
