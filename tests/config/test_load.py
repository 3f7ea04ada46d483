"""Files and overrides: what wins, what comes back, and where errors point."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytorch_dl.config import Config, get_config, load_config, to_described_yaml, to_json, to_yaml
from pytorch_dl.config.load import merged, nearest, with_overrides
from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.errors import ConfigError


def written(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def refused(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    assert error.value.exit_code == 2
    return str(error.value)


SPECIFICATION = """
# config.yaml
model:
  d_model: 512
  n_heads: 8
  num_encoder_layers: 6
  num_decoder_layers: 6
  dropout: 0.1
  max_seq_len: 512

training:
  batch_size: 16
  learning_rate: 1e-4
  num_epochs: 10
  mixed_precision: true
  gradient_accumulation_steps: 1

data:
  train_data_path: "./data/train.txt"
  val_data_path: "./data/val.txt"
  tokenizer_name: "gpt2"
  max_length: 128
"""


def test_the_file_of_the_specification_is_read(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, SPECIFICATION))
    assert config.training.learning_rate == 1e-4
    assert config.training.batch_size == 16
    assert (config.data.train_data_path, config.data.tokenizer_name) == ("./data/train.txt", "gpt2")
    assert config.training.mixed_precision is True


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == Config()
    assert load_config(str(written(tmp_path, "# nothing"))) == Config()


def test_a_section_of_comments_changes_nothing(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "model:\n  # d_model: 256\ndata: {max_length: 99}"))
    assert config == Config().update(data={"max_length": 99})


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "model: {d_model: 256, dropout: 0.2}\ntraining: {num_epochs: 3}")
    config = load_config(path, ["model.d_model=128", "training.max_steps=2k", "training.max_steps=3k"])
    assert (config.model.d_model, config.model.dropout, config.model.n_heads) == (128, 0.2, 8)
    assert (config.training.num_epochs, config.training.max_steps) == (3, 3000)


def test_an_override_can_mend_a_contradiction_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "model: {d_model: 100}")
    assert "model.d_model (100) must be divisible" in refused(path)
    assert load_config(path, ["model.n_heads=10"]).model.n_heads == 10


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("model.dropout=5e-2", 0.05),
        ("model.norm_first=false", False),
        ("model.n_kv_heads=null", None),
        ("model.n_kv_heads=", None),
        ("data.tokenizer_name='1e3'", "1e3"),
        ("data.tokenizer_name=1e3", "1e3"),
        ("data.train_data_path=my #1 file.tsv", "my #1 file.tsv"),
        ("data.train_data_path='my #1 file.tsv'", "my #1 file.tsv"),
        ("data.train_data_path=2024", "2024"),
        ("data.train_data_path=true", "true"),
        ("data.train_data_path=[a]: b", "[a]: b"),
        ("data.train_data_path=null", None),
        ("data.train_data_path=", None),
        ("data.train_data_path=a=b", "a=b"),
        ("data.train_data_path=hf://org/name#train", "hf://org/name#train"),
        ("data.train_data_path=@list", "@list"),
        ("data.train_data_path=*.txt", "*.txt"),
        ("data.train_data_path=!x", "!x"),
        ("data.src_suffix=no", "no"),
        ("data.src_column=1", "1"),
        ("logging.tensorboard=no", False),
        ("training.time_limit=90s", 90.0),
        ("training.mixed_precision=bf16", "bf16"),
        ("system.seed=0x10", 16),
    ],
)
def test_overrides_are_read_as_yaml(word: str, value: object) -> None:
    section, _, key = word.partition("=")[0].partition(".")
    found = getattr(getattr(with_overrides(Config(), [word]), section), key)
    assert found == value
    assert type(found) is type(value)


def test_an_override_may_be_a_list() -> None:
    config = with_overrides(Config(), ["data.corpora=[{src: a.tsv, weight: 0.5}, {src: b, tgt: c}]"])
    assert [(corpus.src, corpus.tgt, corpus.weight) for corpus in config.data.corpora] == [
        ("a.tsv", None, 0.5),
        ("b", "c", 1.0),
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        *(
            (word, f"cannot read the override {word!r}. Fix: write section.key=value, as in model.d_model=256.")
            for word in ("d_model", "model.d_model", "")
        ),
        *(
            (f"{name}=3", f"cannot read the setting {name!r}. Fix: write section.key, as in model.d_model.")
            for name in ("model", "", ".", "model.")
        ),
        ("d_model=3", "cannot read the setting 'd_model', did you mean 'model.d_model'?"),
        ("model.d_modl=3", "command line: unknown setting 'model.d_modl', did you mean 'model.d_model'?"),
        ("modell.d_model=3", "command line: unknown setting 'modell', did you mean 'model'?"),
        ("training.d_model=3", "command line: unknown setting 'training.d_model', did you mean 'model.d_model'?"),
        ("model.zzz=3", "command line: unknown setting 'model.zzz'"),
        (
            "model.d_model=0",
            "command line: model.d_model: expected greater than or equal to 1, got 0. "
            "Fix: model.d_model is: Width of the residual stream.",
        ),
    ],
)
def test_overrides_that_are_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_overrides(Config(), [word])
    assert str(error.value) == message


def test_overrides_of_any_depth_are_refused_and_not_run() -> None:
    for text in ("[" * 50_000, "!!python/object/apply:os._exit [3]", "&a [*a]"):
        with pytest.raises(ConfigError, match=r"^command line: model\.d_model: expected a number such as"):
            with_overrides(Config(), [f"model.d_model={text}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model:\n  d_model: 512\n  d_modle: 3\n",
            ":3: unknown setting 'model.d_modle', did you mean 'model.d_model'?",
        ),
        ("\ntrainig:\n  x: 1", ":2: unknown setting 'trainig', did you mean 'training'?"),
        ("d_model: 5", ":1: unknown setting 'd_model', did you mean 'model.d_model'?"),
        ("data:\n  d_model: 5", ":2: unknown setting 'data.d_model', did you mean 'model.d_model'?"),
        (
            "data:\n  d_model: 5\n  x: 1\nmodle: {}",
            ":2: 3 unknown settings: 'data.d_model', did you mean 'model.d_model'?; 'data.x'; "
            "'modle', did you mean 'model'?",
        ),
        (
            "x:\nmodel:\n" + "".join(f"  y{i}: 1\n" for i in range(1999)),
            ":1: 2,000 unknown settings: 'x'; " + "".join(f"'model.y{i}'; " for i in range(7)) + "and 1,992 more",
        ),
        (f"{'x' * 200}: 1", f":1: unknown setting '{'x' * 96}..."),
        ("model.d_model: 5", ":1: unknown setting 'model.d_model'. Fix: write the key below its section."),
        (
            "data:\n  corpora:\n  - src: a\n    wieght: 2",
            ":4: unknown setting 'data.corpora.0.wieght', did you mean 'data.corpora.0.weight'?",
        ),
        (
            "data:\n  corpora:\n  - src: a\n  - weight: 2",
            ": data.corpora.1.src is missing. "
            "Fix: data.corpora.1.src is: File, prefix or hf:// id, as data.train_data_path.",
        ),
        (
            "data:\n  corpora:\n  - src: a\n    weight: 0",
            ":4: data.corpora.0.weight: expected greater than 0, got 0. "
            "Fix: data.corpora.0.weight is: How often each pair appears in an epoch; 0.5 takes another half each time.",
        ),
        (
            "system:\n  seed: 1\n\n  device: tpu",
            ":4: system.device: expected one of auto, cpu, cuda, got 'tpu'. "
            "Fix: system.device is: Where to train: the GPU when there is one.",
        ),
        ("model: 5", ":1: model is a section, got 5. Fix: write model.KEY."),
        ("- model", ":1: expected sections such as `model:`, got ['model']"),
        ("just words", ":1: expected sections such as `model:`, got 'just words'"),
        ("model:\n  d_model: 1\n  d_model: 2", ":3: model.d_model is set twice, first in line 2. Fix: delete one."),
        ("model: &m {d_model: 1}", ":1: anchors and aliases are not read. Fix: write the value out."),
        (
            "model: !!python/object/apply:os._exit [3]",
            ":1: the tag tag:yaml.org,2002:python/object/apply:os._exit is not read. Fix: write the value without it.",
        ),
    ],
)
def test_errors_point_to_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    assert refused(path) == f"{path}{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": {\n  "d_modle": 3}}', ":2: unknown setting 'model.d_modle', did you mean 'model.d_model'?"),
        (
            '{"system":\n {"device": "tpu"}}',
            ":2: system.device: expected one of auto, cpu, cuda, got 'tpu'. "
            "Fix: system.device is: Where to train: the GPU when there is one.",
        ),
        (
            '{"model": {"d_model": 1,\n "d_model": 2}}',
            ":2: model.d_model is set twice, first in line 1. Fix: delete one.",
        ),
        ('{"model": {"d_model": 1', ":1:24: not readable as YAML or JSON: expected ',' or '}', but got '<stream end>'"),
        ('["model"]', ":1: expected sections such as `model:`, got ['model']"),
    ],
)
def test_errors_point_to_the_line_in_json_too(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text, "config.json")
    assert refused(path) == f"{path}{message}"


def test_all_contradictions_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "model: {d_model: 100, n_heads: 12}\ndata: {max_length: 600}")
    assert refused(path) == (
        f"{path}: model.d_model (100) must be divisible by model.n_heads (12); nearest: 96 or 108; "
        "data.max_length (600) is above model.max_seq_len (512)"
    )


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize(("write", "ending"), [(to_yaml, "yaml"), (to_json, "json")])
def test_templates_come_back_equal(tmp_path: Path, name: str, write: Any, ending: str) -> None:
    config = get_config(name)
    text = write(config)
    assert load_config(written(tmp_path, text, f"config.{ending}")) == config
    assert write(load_config(tmp_path / f"config.{ending}")) == text


def test_what_is_written_is_plain() -> None:
    text = to_yaml(Config().update(data={"train_data_path": "données/a b.txt"}))
    assert text.startswith("model:\n  d_model: 512\n")
    assert "  train_data_path: données/a b.txt\n" in text
    assert yaml.safe_load(text) == json.loads(to_json(Config().update(data={"train_data_path": "données/a b.txt"})))


def test_a_config_in_yaml_is_the_same_as_in_json_and_on_the_command_line(tmp_path: Path) -> None:
    in_yaml = load_config(written(tmp_path, "model: {dropout: 1e-2}\ndata: {src_suffix: no, tgt_suffix: en}"))
    text = '{"model": {"dropout": 1e-2}, "data": {"src_suffix": "no", "tgt_suffix": "en"}}'
    in_json = load_config(written(tmp_path, text, "config.json"))
    overrides = ["model.dropout=1e-2", "data.src_suffix=no", "data.tgt_suffix=en"]
    assert in_yaml == in_json == with_overrides(Config(), overrides)
    assert in_yaml.data.src_suffix == "no"


def test_merging_leaves_the_config_as_it_was() -> None:
    config = Config()
    changed = merged(config, {"data": {"corpora": [{"src": "a"}]}})
    assert config == Config()
    assert [corpus.src for corpus in changed.data.corpora] == ["a"]


def test_nearest_name() -> None:
    assert nearest("swiglo", ["relu", "swiglu"]) == ", did you mean 'swiglu'?"
    assert nearest("d_modl", ["d_model"], prefix="model.") == ", did you mean 'model.d_model'?"
    assert nearest("xyz", ["relu", "swiglu"]) == ""
    for name in ("num_vecoder_layers", "num_dceoder_layers", "num_deecoder_layers"):
        assert nearest(name, ["num_encoder_layers", "num_decoder_layers"]) == ", did you mean 'num_decoder_layers'?"


def test_all_wrong_values_are_told_together(tmp_path: Path) -> None:
    line = refused(written(tmp_path, "model: {n_heads: 0}\n"), ())
    assert line.endswith("Fix: model.n_heads is: Attention heads; each has d_model / n_heads features.")
    with pytest.raises(ConfigError) as error:
        with_overrides(Config(), ["training.max_steps=many", "model.n_heads=0", "data.layout=loose"])
    assert str(error.value) == (
        "command line: model.n_heads: expected greater than or equal to 1, got 0; "
        "data.layout: expected one of auto, packed, padded, got 'loose'; "
        "training.max_steps: expected a number such as 500, 100k or 2m, got 'many'. "
        "Fix: model.n_heads is: Attention heads; each has d_model / n_heads features; data.layout is: Several pairs to "
        "a row of one width (packed), or one to a row (padded); auto packs texts of up to 256 tokens; "
        "training.max_steps is: Optimizer steps to train for, in place of num_epochs."
    )
    path = written(tmp_path, "model:\n  n_heads: 0\ntraining:\n  max_steps: many\n")
    told = refused(path)
    assert told.startswith(f"{path}:2: model.n_heads: expected greater than or equal to 1, got 0; ")
    assert f"; {path}:4: training.max_steps: expected a number such as 500, 100k or 2m, got 'many'. Fix: " in told


@pytest.mark.parametrize("name", TEMPLATES)
def test_described_settings_are_the_settings(name: str, tmp_path: Path) -> None:
    config = get_config(name)
    config.update(data={"train_data_path": "# no: 'comment'", "corpora": [{"src": "a"}, {"src": "b", "weight": 2.5}]})
    text = to_described_yaml(config)
    assert load_config(written(tmp_path, text)) == config
    assert "  # Attention heads; each has d_model / n_heads features.\n  n_heads: " in text
    assert text.count("  # ") == sum(len(getattr(config, section).model_dump()) for section in Config.model_fields) + 7


@pytest.mark.parametrize(
    ("word", "what"),
    [("0", "expected greater than or equal to 1, got 0"), ("atuo", "expected a number such as 500, 100k or 2m")],
)
def test_tokens_of_a_batch_are_a_number_or_auto(word: str, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"data.max_tokens_per_batch: {what}.* auto: "):
        with_overrides(Config(), [f"data.max_tokens_per_batch={word}"])
    config = with_overrides(Config(), ["data.max_tokens_per_batch=auto", "training.tokens_per_step=64k"])
    assert (config.data.max_tokens_per_batch, config.training.tokens_per_step) == ("auto", 64_000)
    assert config.problems() == []
