"""Reading and writing configurations: YAML or JSON file, overrides, and errors that name file, line and field."""

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from yaml.representer import BaseRepresenter

from pytorch_dl.config.model_config import Config, Section
from pytorch_dl.config.other_toolkits import OUR_NAMES, other_toolkit
from pytorch_dl.config.reader import NULLS, plain_scalar, read_file, read_text
from pytorch_dl.errors import ConfigError

Where = Callable[[str], str]  # field, such as model.d_model -> the place that set it
SHOWN_UNKNOWN = 8
_FOR_EDITORS = (
    "# yaml-language-server: $schema=schema.json",
    "# An editor completes and checks this file by the schema beside it: pytorch-dl config schema > schema.json",
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML or JSON file over the defaults, then `section.key=value` words; tell all contradictions at once."""
    return checked(with_overrides(read_config(path), overrides), where=str(path))


def read_config(path: str | Path) -> Config:
    """Read a YAML or JSON file over the defaults, whatever contradicts in it: more settings may follow."""
    path = Path(path)
    tree, lines = read_file(path)
    if not isinstance(tree, dict | None):
        raise ConfigError(f"expected sections such as `model:`, got {tree!r}", where=f"{path}:1")
    return _merge(Config(), tree or {}, lambda field: f"{path}:{lines[field]}" if field in lines else str(path))


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Return `config` changed by `section.key=value` words, whose values are YAML; a text needs no quotes."""
    values: dict[str, Any] = {}
    for word in overrides:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(
                f"cannot read the override {word!r}", fix="write section.key=value, as in model.d_model=256"
            )
        values[name] = _override(name, text)
    return with_values(config, values)


def _override(name: str, text: str) -> Any:
    if _is_text(name) and text not in NULLS and text[0] not in "'\"":
        return text
    try:
        return read_text(text, where="command line")[0]
    except ConfigError:
        return text


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with the settings `section.key` changed to these values."""
    changes: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, dot, key = name.partition(".")
        if not (dot and key):
            likely = _elsewhere(name)
            fix = None if likely else "write section.key, as in model.d_model"
            raise ConfigError(f"cannot read the setting {name!r}{likely}", fix=fix)
        changes.setdefault(section, {})[key] = value
    return _merge(config, changes, lambda _: "command line")


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
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)


def to_described_yaml(config: Config) -> str:
    """Write the same as `to_yaml`, with a line above each setting that says what it is, and one for editors."""
    lines = [*_FOR_EDITORS]
    for name in Config.model_fields:
        section: Section = getattr(config, name)
        lines += [f"{name}:  # {type(section).__doc__}"]
        for key, field in type(section).model_fields.items():
            dumped = yaml.dump({key: section.model_dump()[key]}, Dumper=_Dumper, allow_unicode=True, width=1 << 20)
            lines += [f"  # {field.description}", *(f"  {line}" for line in dumped.splitlines())]
    return "\n".join(lines) + "\n"


def to_json(config: Config) -> str:
    """Write every setting as JSON that `load_config` reads back to an equal config."""
    return json.dumps(config.model_dump(), indent=2, ensure_ascii=False)


def flat(tree: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """The settings of sections within sections by their dotted names, such as model.d_model."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, prefix=f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def nearest(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Return `, did you mean 'x'?` for the name that is fewest slips away from `name`, or nothing if none is near."""
    close = difflib.get_close_matches(name, names := list(names), n=max(1, len(names)))
    return f", did you mean {prefix + min(close, key=lambda known: _edits(name, known))!r}?" if close else ""


def _edits(one: str, other: str) -> int:
    """Letters too few, too many, wrong or swapped between two words: their optimal string alignment."""
    older: list[int] = []
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, expected in enumerate(other, 1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != expected))
            if min(i, j) > 1 and letter == other[j - 2] and expected == one[i - 2]:
                edits = min(edits, older[j - 2] + 1)
            row.append(edits)
    return row[-1]


def _represent_word(dumper: BaseRepresenter, word: str) -> yaml.ScalarNode:
    style = None if isinstance(plain_scalar(word), str) else "'"  # YAML 1.1, which the dumper knows, has other numbers
    if re.search("[\x85\u2028\u2029]", word):
        style = '"'  # escaped: as they are, YAML would read them as line ends
    return dumper.represent_scalar("tag:yaml.org,2002:str", word, style=style)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the words that YAML 1.2 reads as numbers."""

    yaml_representers = {**yaml.SafeDumper.yaml_representers, str: _represent_word}


def _merge(config: Config, changes: Mapping[str, Any], where: Where) -> Config:
    changes = {name: {} if section is None else section for name, section in changes.items()}  # all lines are comments
    _refuse_unknown(changes, where)
    tree = config.model_dump()
    for name, section in changes.items():
        if not isinstance(section, Mapping):
            raise ConfigError(f"{name} is a section, got {section!r}", where=where(name), fix=f"write {name}.KEY")
        tree[name].update(section)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _all_errors(error, where) from None


def _refuse_unknown(tree: Mapping[str, Any], where: Where) -> None:
    """Raise for the settings that do not exist, at the place of the first."""
    found = [*_unknown(Config, tree, "")]
    if not found:
        return
    toolkit = other_toolkit(prefix + key for prefix, key, _ in found)
    told = [
        _cut(prefix + key) + ("" if toolkit else _elsewhere(key) or nearest(key, known, prefix=prefix))
        for prefix, key, known in found[:SHOWN_UNKNOWN]
    ]
    more = f"; and {len(found) - len(told):,} more" if len(found) > len(told) else ""
    what = "unknown setting " if len(found) == 1 else f"{len(found):,} unknown settings: "
    fix = "write the key below its section" if any("." in key for _, key, _ in found) else None
    if toolkit:
        what, fix = f"written for {toolkit}: {what}", OUR_NAMES
    raise ConfigError(f"{what}{'; '.join(told)}{more}", where=where(found[0][0] + found[0][1]), fix=fix)


def _unknown(section: type[Section], tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Each setting that does not exist: what stands before its name, its name, and the names that there are."""
    known = section.model_fields
    for key, value in tree.items():
        if key not in known:
            yield prefix, str(key), known
            continue
        inner = _section_of(known[key].annotation)
        if inner is None:
            continue
        for place, item in enumerate(value) if isinstance(value, list) else [("", value)]:
            if isinstance(item, Mapping):
                yield from _unknown(inner, item, f"{prefix}{key}.{place}{'.' * (place != '')}")


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a field, or each item of a list, is."""
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


def _elsewhere(key: str) -> str:
    """A known key of another section is the likeliest slip."""
    for name, field in Config.model_fields.items():
        section = _section_of(field.annotation)
        if section is not None and key in section.model_fields:
            return f", did you mean '{name}.{key}'?"
    return ""


def _all_errors(error: ValidationError, where: Where) -> ConfigError:
    """The wrong values, told together; with a way out where it is one."""
    wrong: dict[str, ErrorDetails] = {}
    for details in error.errors():
        in_list = len(details["loc"]) > 2 and isinstance(details["loc"][2], int)
        wrong.setdefault(".".join(str(part) for part in details["loc"][: 4 if in_list else 2]), details)
    told = [_told(field, details) for field, details in wrong.items()]
    places = [where(field.rpartition(".")[0] if d["type"] == "missing" else field) for field, d in wrong.items()]
    parts = [what if at == places[0] else f"{at}: {what}" for (what, _), at in zip(told, places, strict=True)]
    fixes = list(dict.fromkeys(fix for _, fix in told if fix))
    fix = fixes[0] if len(fixes) == 1 else "; ".join(fix.rstrip(".") for fix in fixes) or None
    return ConfigError("; ".join(parts), where=places[0], fix=fix)


def _told(field: str, details: ErrorDetails) -> tuple[str, str | None]:
    """What is wrong with a setting, and the way out."""
    info, got = _info(details["loc"]), details["input"]
    fix = f"{field} is: {info.description}" if info and info.description else None
    if details["type"] == "missing":
        return f"{field} is missing", fix
    if details["type"] == "string_type" and isinstance(got, int | float):
        fix = "put it in quotes"
    return f"{field}: {_complaint(details['msg'], _literals(info.annotation) if info else [], got)}", fix


def _complaint(message: str, allowed: list[str], got: Any) -> str:
    if allowed:
        return f"expected one of {', '.join(allowed)}, got {_cut(got)}"
    what = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return what if what.startswith("expected") else f"expected {what}, got {_cut(got)}"


def _cut(value: Any) -> str:
    """A value as it is written in Python, not all of a long one."""
    return repr(value) if len(repr(value)) <= 100 else f"{repr(value)[:97]}..."


def _info(loc: tuple[int | str, ...]) -> FieldInfo | None:
    """The declaration of the setting that a validation error is about."""
    section: type[Section] | None = Config
    info = None
    for part in loc:
        if section is not None and part in section.model_fields:
            info = section.model_fields[str(part)]
            section = _section_of(info.annotation)
    return info


def _is_text(field: str) -> bool:
    """Whether a setting is a text, or may be one beside null."""
    info = _info(tuple(field.split(".")))
    todo, found = [info.annotation if info else None], []
    while todo:
        part = todo.pop()
        todo += typing.get_args(part)
        found.append(part)
    return str in found


def _literals(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = typing.get_args(annotation)
        if any(part not in (bool, types.NoneType) and not _literals(part) for part in inner):
            return []  # what else it may be, other complaints tell
        found = [value for part in inner for value in _literals(part)]
        return ["true", "false", *found] if bool in inner and found else found
    return []
