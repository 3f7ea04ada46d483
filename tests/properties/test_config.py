"""Any configuration: what is written is read back, in each form and from the command line; what is refused is named."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pytorch_dl.config import Config, load_config, to_json, to_yaml
from pytorch_dl.config.load import merged, read_config, with_overrides, with_values
from pytorch_dl.config.reader import NULLS
from pytorch_dl.errors import ConfigError

SECTIONS = {name: list(type(getattr(Config(), name)).model_fields) for name in Config.model_fields}
SETTINGS = [f"{section}.{key}" for section, keys in SECTIONS.items() for key in keys]

words = st.text(min_size=1, max_size=12) | st.sampled_from(
    [
        "1e3",
        "0o7",
        "0x1f",
        "1_0",
        "12:30",
        "no",
        "on",
        "null",
        "~",
        ".5",
        ".inf",
        "=",
        "<<",
        "- a",
        "a: b",
        "#",
        "2001-01-01",
    ]
)
positive = st.floats(min_value=1e-300, max_value=1e300)
changes = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries(
            {},
            optional={
                "tokenizer_name": words,
                "cache_dir": words,
                "corpora": st.lists(st.fixed_dictionaries({"src": words, "weight": positive}), max_size=2),
            },
        ),
        "training": st.fixed_dictionaries({}, optional={"learning_rate": positive, "time_limit": positive}),
        "system": st.fixed_dictionaries({}, optional={"seed": st.integers(0, 2**63 - 1)}),
        "logging": st.fixed_dictionaries({}, optional={"wandb_project": words, "tensorboard": st.booleans()}),
    },
)


def choices() -> list[str]:
    """The words that some setting is one of."""
    fields = [field for name in SECTIONS for field in type(getattr(Config(), name)).model_fields.values()]
    every = [part for field in fields for part in (field.annotation, *get_args(field.annotation))]
    return sorted({str(word) for part in every for word in get_args(part) if isinstance(word, str)})


values = (
    st.none()
    | st.booleans()
    | st.integers(-3, 600)
    | st.integers(2**31, 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(choices())
    | words
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


@given(changes)
@example({"data": {"tokenizer_name": "1e3", "cache_dir": "x\x85y\u2028 \ufeff"}})
@example({"data": {"cache_dir": "a\x85b"}})
@example({"data": {"cache_dir": "a\u2028b", "tokenizer_name": "\u2029"}})
@example({"data": {"cache_dir": "a " * 100, "tokenizer_name": "\U0001f600"}})
def test_yaml_json_and_the_command_line_say_the_same(folder: Path, changes: dict[str, Any]) -> None:
    config = merged(Config(), changes)
    assert load_config(written(folder / "config.yaml", to_yaml(config))) == config
    assert load_config(written(folder / "config.json", to_json(config))) == config
    assert json.loads(to_json(config)) == config.model_dump()
    given = {f"{name}.{key}": value for name, section in changes.items() for key, value in section.items()}
    assert with_overrides(Config(), [f"{name}={json.dumps(value)}" for name, value in given.items()]) == config


@given(words)
def test_a_word_on_the_command_line_needs_no_quotes(word: str) -> None:
    assume(word not in NULLS and word[0] not in "'\"")
    assert with_overrides(Config(), [f"logging.wandb_project={word}"]).logging.wandb_project == word


@given(st.dictionaries(st.sampled_from(SETTINGS), values, min_size=1, max_size=8))
def test_any_setting_comes_back_or_is_named(folder: Path, changes: dict[str, Any]) -> None:
    """Alone on the command line, and with its line in a file; what is taken is written and read to the same text."""
    taken = {}
    for name, value in changes.items():
        section, key = name.split(".")
        path = written(folder / "one.json", json.dumps({section: {key: value}}, indent=1))
        try:
            taken[name] = getattr(getattr(with_values(Config(), {name: value}), section), key)
        except ConfigError as error:
            assert str(error).startswith(f"command line: {name}: "), error
            with pytest.raises(ConfigError, match=re.escape(f"{path}:3: {name}: ")):
                read_config(path)
        else:
            assert getattr(getattr(read_config(path), section), key) == taken[name]
    config = with_values(Config(), taken)
    for write, ending in ((to_yaml, "yaml"), (to_json, "json")):
        again = read_config(written(folder / f"all.{ending}", write(config)))
        assert again == config and write(again) == write(config)


@given(st.sampled_from(SETTINGS), st.integers(0, 40), st.sampled_from(["", "_", "x", "é"]), st.integers(0, 1))
def test_an_unknown_setting_is_named_and_so_is_one_that_exists(name: str, place: int, more: str, less: int) -> None:
    section, key = name.split(".")
    place %= len(key)
    slip = key[:place] + more + key[place + less :]
    assume(slip and slip not in SECTIONS[section])
    with pytest.raises(ConfigError, match=re.escape(f"unknown setting '{section}.{slip}'")) as refused:
        with_values(Config(), {f"{section}.{slip}": 1})
    for likely in re.findall(r"did you mean '(.*)'\?", str(refused.value)):
        assert likely in SETTINGS
