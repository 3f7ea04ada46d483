"""Reading and writing configurations: YAML or JSON file, dotted overrides, and errors that name file, line and field.

YAML is read by the rules of its version 1.2: `1e-4` is a number and `no` is a word. Anchors, tags and duplicate keys
are refused, so that a file from a stranger can only be read or refused.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pytorch_dl.config.model_config import Config, Section
from pytorch_dl.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML or JSON file over the defaults, then `section.key=value` overrides; all contradictions are told at once."""
    path = Path(path)
    tree, lines = _read(path)
    config = _merge(Config(), tree, lambda field: f"{path}:{lines[field]}" if field in lines else str(path))
    return checked(with_overrides(config, overrides), where=str(path))


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config` changed by `section.key=value` words, whose values are read as YAML."""
    for word in overrides:
        name, equals, text = word.partition("=")
        section, dot, key = name.partition(".")
        if not (equals and dot and key):
            raise ConfigError(
                f"cannot read the override {word!r}", fix="write section.key=value, as in model.d_model=256"
            )
        try:
            value = yaml.load(text, _Loader) if text else None  # noqa: S506  a subclass of SafeLoader
        except yaml.YAMLError:
            value = text
        config = _merge(config, {section: {key: value}}, lambda _: "command line")
    return config


def checked(config: Config, *, where: str = "config") -> Config:
    """Return `config`, or raise with all of its contradictions."""
    found = config.problems()
    if found:
        raise ConfigError("; ".join(found), where=where)
    return config


def merged(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy of `config` with some settings of some sections changed."""
    return _merge(config, changes, lambda _: "config")


def to_yaml(config: Config) -> str:
    """Write every setting as YAML that `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def to_json(config: Config) -> str:
    """Write every setting as JSON that `load_config` reads back to an equal config."""
    return json.dumps(config.model_dump(), indent=2, ensure_ascii=False)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the name that looks most like `name`, or nothing."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def _merge(config: Config, changes: Mapping[str, Any], where: typing.Callable[[str], str]) -> Config:
    if not isinstance(changes, Mapping):
        raise ConfigError(f"expected sections, got {changes!r}", where=where(""))
    _refuse_unknown(Config, changes, "", where)
    tree = config.model_dump()
    for name, section in changes.items():
        if not isinstance(section, Mapping):
            raise ConfigError(f"{name} is a section, got {section!r}", where=where(name), fix=f"write {name}.KEY")
        tree[name].update(section)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _first_error(error, where) from None


def _refuse_unknown(
    section: type[BaseModel], tree: Mapping[str, Any], prefix: str, where: typing.Callable[[str], str]
) -> None:
    for key, value in tree.items():
        field = f"{prefix}{key}"
        known = section.model_fields
        if key not in known:
            raise ConfigError(
                f"unknown setting {field!r}{nearest(str(key), known) or _elsewhere(str(key))}", where=where(field)
            )
        inner = known[key].annotation
        if isinstance(inner, type) and issubclass(inner, Section) and isinstance(value, Mapping):
            _refuse_unknown(inner, value, f"{field}.", where)


def _elsewhere(key: str) -> str:
    """A known key of another section is the likeliest slip."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section) and key in section.model_fields:
            return f", did you mean '{name}.{key}'?"
    return ""


def _first_error(error: ValidationError, where: typing.Callable[[str], str]) -> ConfigError:
    first = error.errors()[0]
    section, key = (str(part) for part in (*first["loc"], "", "")[:2])
    field = f"{section}.{key}"
    got = first["input"]
    what = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    what = what if what.startswith("expected") else f"expected {what}, got {got!r}"
    return ConfigError(
        f"{'.'.join(str(part) for part in first['loc'][:2])}: {what}", where=where(field), fix=_expected(section, key)
    )


def _expected(section: str, key: str) -> str | None:
    """Tell what the field is for."""
    field = Config.model_fields.get(section)
    if field is None or not isinstance(field.annotation, type) or key not in field.annotation.model_fields:
        return None
    info = field.annotation.model_fields[key]
    allowed = [str(value) for value in _literals(info.annotation)]
    return f"one of {', '.join(allowed)}" if allowed else f"{section}.{key} is: {info.description}"


def _literals(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = typing.get_args(annotation)
        found = [value for part in inner for value in _literals(part)]
        return ["true", "false", *found] if bool in inner and found else found
    return []


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the file's tree, and the line of each `section.key` in it."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(
                f"the file has {path.stat().st_size:,} bytes, over the limit of {MAX_BYTES:,}", where=str(path)
            )
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            "no such configuration file",
            where=str(path),
            fix="check the path, or start from `pytorch-dl config show tiny`",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"byte {error.start} is not UTF-8", where=str(path), fix="save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    try:
        _refuse_anchors(path, text)
        root = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"not readable as YAML or JSON: {error.problem}", where=at) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"not readable as YAML or JSON: {error}", where=str(path)) from None
    lines: dict[str, int] = {}
    tree = _build(path, root, "", lines) if root is not None else {}
    if not isinstance(tree, dict):
        raise ConfigError(f"expected sections such as `model:`, got {tree!r}", where=f"{path}:1")
    return tree, lines


def _refuse_anchors(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError(
                "anchors and aliases are not read",
                where=f"{path}:{event.start_mark.line + 1}",
                fix="write the value out",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ConfigError(f"nested deeper than {MAX_DEPTH} levels", where=f"{path}:{event.start_mark.line + 1}")


def _build(path: Path, node: yaml.Node, field: str, lines: dict[str, int]) -> Any:
    at = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = f"{field}.{key}" if field else key
            if key in tree:
                raise ConfigError(
                    f"{inner} is set twice, first in line {lines[inner]}",
                    where=f"{path}:{key_node.start_mark.line + 1}",
                    fix="delete one",
                )
            lines[inner] = key_node.start_mark.line + 1
            tree[key] = _build(path, value_node, inner, lines)
        return tree
    if isinstance(node, yaml.SequenceNode):
        return [_build(path, item, f"{field}.{index}", lines) for index, item in enumerate(node.value)]
    try:
        return _Loader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        what = getattr(error, "problem", None) or error
        raise ConfigError(f"{field}: {what}", where=at, fix="use plain numbers, words, true or false") from None
