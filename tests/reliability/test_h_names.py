"""What stands in a file is data: names of classes, variables in braces and shell characters bring nothing about."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_files import sign
from safetensors.torch import load_file, save_file
from tiny_runs import call, copied_run, write_tsv

from pytorch_dl.config import Config, to_yaml
from pytorch_dl.config.load import read_config
from pytorch_dl.errors import ConfigError
from pytorch_dl.files import MANIFEST

WORDS = [
    "evil.Evil",
    "evil:Evil",
    "os.system",
    "${HOME}",
    "${env:HOME}",
    "$HOME",
    "$(touch mark)",
    "`touch mark`",
    "; touch mark",
    "| touch mark",
    "{{ evil.Evil }}",
    "%(HOME)s",
    "{0.__class__}",
    "!!python/name:evil.Evil",
    "lambda: evil",
    "__import__('evil')",
]
KEYS = [
    "_target_",
    "_partial_",
    "auto_map",
    "class_path",
    "init_args",
    "__class__",
    "__reduce__",
    "$ref",
    "<<",
    "defaults",
]


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that can be imported, and leaves a mark when it is."""
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield mark
    assert not mark.exists()
    assert "evil" not in sys.modules


def test_h5_words_in_each_setting(case, evil, tmp_path):
    """A text keeps them letter by letter, any other setting refuses them; keys that other programs obey are unknown."""
    kept = refused = 0
    every = [(section, key, word) for section, keys in Config().model_dump().items() for key in keys for word in WORDS]
    path = tmp_path / "settings.json"
    for section, key, word in random.Random(5).sample(every, case.size(100, len(every))):
        path.write_text(json.dumps({section: {key: word}}))
        try:
            config = read_config(path)
        except ConfigError as error:
            assert f"{path}:1: {section}.{key}" in str(error)
            refused += 1
        else:
            path.write_text(to_yaml(config))
            assert config.model_dump()[section][key] == read_config(path).model_dump()[section][key] == word
            kept += 1
    for section in ("", *Config.model_fields):
        for key in KEYS:
            path.write_text(json.dumps({section: {key: WORDS[0]}} if section else {key: {"_target_": WORDS[0]}}))
            with pytest.raises(ConfigError, match=rf"{path}:1: unknown setting '{section}"):
                read_config(path)
            refused += 1
    assert kept > 5 < refused
    case.survived(
        kept + refused, injected="class paths, ${}, shell characters and auto_map in a setting", lost="nothing"
    )


def changed(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Change the value of a JSON file of the run, its manifest with it."""

    def spoil(run: Path) -> None:
        for path in run.glob(name):
            value = json.loads(path.read_bytes())
            change(value)
            path.write_text(json.dumps(value))
            if (path.parent / MANIFEST).exists():
                sign(path.parent)

    return spoil


def written_by(run: Path) -> None:
    """Another name of the optimizer."""
    for path in run.glob("checkpoints/*/optimizer.safetensors"):
        save_file(load_file(path), path, metadata={"optimizer": WORDS[0]})
        sign(path.parent)


TARGET = {"_target_": WORDS[0]}
SPOILT = [
    (changed("checkpoints/*/state.json", lambda state: state.update(TARGET)), "other fields than expected: _target_"),
    (changed("checkpoints/*/state.json", lambda state: state.update(step=TARGET)), "state step"),
    (changed("checkpoints/*/state.json", lambda state: state.update(precision=WORDS[0])), "state precision"),
    (changed("data.json", lambda texts: texts["train"][0].update(TARGET)), "data.json: cannot be read"),
    (changed("evaluation.json", lambda plan: plan.update(beam_size=WORDS[0])), "expected a beam_size"),
    (changed("tokenizer/tokenizer.json", lambda t: t["model"].update(type=WORDS[0])), "not a tokenizer definition"),
    (changed("tokenizer/tokenizer.json", lambda t: t.update(decoder=TARGET)), "not a tokenizer definition"),
    (changed("tokenizer/tokenizer_meta.json", lambda meta: meta.update(specials=TARGET)), "one token for each of"),
    (written_by, "was written by the optimizer evil.Evil, not AdamW"),
]


@pytest.mark.parametrize(("spoil", "says"), SPOILT, ids=[says for _, says in SPOILT])
def test_h5_names_of_classes_in_a_run(evil, tiny_run, tmp_path, capsys, spoil, says):
    run = copied_run(tiny_run, tmp_path)
    shutil.rmtree(run / "model")
    spoil(run)
    result = call(capsys, "resume", run)
    assert (result.code, says in result.error_lines[0]) == (4, True), result.err


@pytest.mark.parametrize("word", [word.replace("/", "") for word in WORDS])
def test_h5_names_of_files_that_a_shell_would_obey(evil, tiny_run, tmp_path, capsys, word):
    text, lines = write_tsv(tmp_path / f"{word}.tsv"), tmp_path / f"{word}.txt"
    lines.write_text("ab cd\n")
    assert call(capsys, "check", "--src", text).code == 0
    assert call(capsys, "translate", tiny_run, lines, "--out", tmp_path / word).code == 0
    assert (tmp_path / word).read_text().count("\n") == 1
