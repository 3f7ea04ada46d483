"""The settings: each described, checked when assigned, and changed all or none."""

import inspect
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pytorch_dl.config import Config, get_config
from pytorch_dl.config.model_config import CorpusConfig, Section
from pytorch_dl.config.templates import TEMPLATES
from pytorch_dl.errors import ConfigError

SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
FIELDS = {
    f"{section}.{name}": field for section, kind in SECTIONS.items() for name, field in kind.model_fields.items()
} | {f"data.corpora.0.{name}": field for name, field in CorpusConfig.model_fields.items()}


def literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in literals(part)]


CHOICES = [(name, value) for name, field in FIELDS.items() for value in literals(field.annotation)]


def test_the_sections_are_those_that_are_promised() -> None:
    assert list(SECTIONS) == ["model", "data", "training", "optimizer", "scheduler", "system", "logging"]
    assert list(inspect.signature(Config.update).parameters)[1:] == list(SECTIONS)
    assert len(FIELDS) > 70


@pytest.mark.parametrize(("name", "field"), FIELDS.items(), ids=list(FIELDS))
def test_every_field_is_described(name: str, field: FieldInfo) -> None:
    description = field.description
    assert description is not None
    assert len(description) >= 12
    assert description[0].isupper() or description.split(",")[0] == "bpe"
    assert description.endswith(".")
    assert "\n" not in description


def test_every_section_is_described() -> None:
    assert all(section.__doc__ for section in SECTIONS.values())


def test_every_default_passes_its_own_check() -> None:
    config = Config()
    for name, section in SECTIONS.items():
        for key, value in getattr(config, name).__dict__.items():
            setattr(getattr(config, name), key, value)
        assert section(**getattr(config, name).__dict__) == getattr(config, name)
    assert config == Config()
    assert config.problems() == []


@pytest.mark.parametrize(("name", "value"), CHOICES, ids=[f"{name}={value}" for name, value in CHOICES])
def test_every_choice_is_taken(name: str, value: object) -> None:
    section, key = name.split(".")
    assert getattr(getattr(Config().update(**{section: {key: value}}), section), key) == value


def test_there_are_choices() -> None:
    assert len(CHOICES) >= 30


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.d_model", 0, "expected greater than or equal to 1, got 0"),
        ("model.d_model", 1.5, "expected a valid integer, got a number with a fractional part, got 1.5"),
        ("model.d_model", True, "expected a number such as 500, 100k or 2m, got true"),
        ("model.d_model", "wide", "expected a number such as 500, 100k or 2m, got 'wide'"),
        ("model.d_model", None, "expected a valid integer, got None"),
        ("model.dropout", 1.0, "expected less than 1, got 1.0"),
        ("model.dropout", -0.1, "expected greater than or equal to 0, got -0.1"),
        ("model.dropout", float("nan"), "expected a finite number, got nan"),
        ("model.dropout", False, "expected a number, got false"),
        ("model.activation", "swish", "expected one of relu, gelu, swiglu, geglu, got 'swish'"),
        ("model.norm_first", 2, "expected a valid boolean, unable to interpret input, got 2"),
        ("training.learning_rate", 0, "expected greater than 0, got 0"),
        ("training.learning_rate", True, "expected a number, got true"),
        ("training.mixed_precision", "fp8", "expected one of true, false, bf16, fp16, got 'fp8'"),
        ("training.max_grad_norm", 0.0, "expected greater than 0, got 0.0"),
        ("training.keep_checkpoints", 1, "expected greater than or equal to 2, got 1"),
        ("training.time_limit", "soon", "expected a time such as 90s, 45min or 2h, got 'soon'"),
        ("optimizer.weight_decay", True, "expected a number, got true"),
        ("optimizer.name", "lion", "expected one of adamw, adam, sgd, got 'lion'"),
        ("scheduler.warmup", -1, "expected greater than or equal to 0, got -1"),
        ("scheduler.final_factor", 1.5, "expected less than or equal to 1, got 1.5"),
        ("system.seed", -1, "expected greater than or equal to 0, got -1"),
        ("data.tokenizer_name", 7, "expected a valid string, got 7"),
        ("data.corpora", "a.txt", "expected a valid list, got 'a.txt'"),
        ("data.train_data_path", ["x" * 200], f"expected a valid string, got ['{'x' * 95}..."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_wrong_value_is_told(name: str, value: object, message: str) -> None:
    section, key = name.split(".")
    with pytest.raises(ConfigError) as error:
        Config().update(**{section: {key: value}})
    assert error.value.what == f"{name}: {message}"
    assert error.value.where == "config"
    assert error.value.exit_code == 2
    expected = "put it in quotes" if value == 7 else f"{name} is: {FIELDS[name].description}"
    assert error.value.fix == expected


def test_assignments_are_checked_one_by_one() -> None:
    config = Config()
    config.model.d_model = "2k"  # type: ignore[assignment]
    assert config.model.d_model == 2000
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        config.model.d_model = 0
    with pytest.raises(ValidationError, match="dropuot"):
        config.model.dropuot = 0.2  # type: ignore[attr-defined]
    assert config.model.d_model == 2000


def test_update_changes_what_is_named_in_place() -> None:
    config = Config()
    assert config.update(model={"d_model": 256, "n_heads": 4}, training={"num_epochs": 3}) is config
    changes = {
        name: values
        for name, values in config.model_dump(exclude_defaults=True).items()
        if name in ("model", "training")
    }
    assert changes == {"model": {"d_model": 256, "n_heads": 4}, "training": {"num_epochs": 3}}
    assert config.update() == config.update(model={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"d_model": 256, "n_heads": 0}}, "model.n_heads: expected greater than or equal to 1, got 0"),
        ({"model": {"d_model": 256}, "data": {"max_length": "x"}}, "data.max_length: expected a number .* got 'x'"),
        ({"model": {"d_model": 256}, "optimizer": {"nam": "sgd"}}, "unknown setting 'optimizer.nam'"),
        ({"model": {"d_model": 256}, "data": ["max_length"]}, r"data is a section, got \['max_length'\]"),
    ],
)
def test_update_changes_all_or_none(changes: dict[str, Any], message: str) -> None:
    config = Config().update(training={"num_epochs": 3})
    before = config.model_copy(deep=True)
    with pytest.raises(ConfigError, match=message):
        config.update(**changes)
    assert config == before
    with pytest.raises(TypeError, match="optimiser"):
        config.update(optimiser={})  # type: ignore[call-arg]


def test_templates_are_sound_and_fresh() -> None:
    for name in TEMPLATES:
        assert get_config(name).problems() == []
    first = get_config("nano")
    first.model.d_model = 64
    assert get_config("nano").model.d_model == 128
    assert list(TEMPLATES) == ["nano", "tiny", "small", "base", "large", "transformer-base", "transformer-big"]


def test_a_template_sets_what_it_says_and_nothing_else() -> None:
    for name, template in TEMPLATES.items():
        changed = get_config(name).model_dump()
        for section, values in Config().model_dump().items():
            assert changed[section] == {**values, **template.get(section, {})}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("smal", ", did you mean 'small'?"), ("transformer_base", ", did you mean 'transformer-base'?"), ("x", "")],
)
def test_unknown_templates_are_told_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        get_config(name)
    assert error.value.what == f"unknown template {name!r}{hint}"
    assert error.value.fix == "one of nano, tiny, small, base, large, transformer-base, transformer-big"
