"""YAML and JSON text to plain values and the line of each, by the rules of YAML 1.2: `1e-4` is a number, `no` a word.

Anchors, tags, duplicate keys, deep nesting and large files are refused, so that a file from a stranger can only be read
or refused.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pytorch_dl.errors import ConfigError

MAX_BYTES = 1 << 20
MAX_DEPTH = 20
MAX_DIGITS = 100  # of a whole number, whose repr and sums must not become too long for Python to show
MAX_EVENTS = 20_000  # values, keys and brackets; reading so many takes a second
NULLS = ("", "~", "null", "Null", "NULL")
_BASES = {"0x": 16, "0o": 8}
_SCALARS: dict[str, Callable[[str], Any]] = {  # the core schema of YAML 1.2, section 10.3
    "|".join(NULLS): lambda text: None,
    r"true|True|TRUE|false|False|FALSE": lambda text: text.lower() == "true",
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+": lambda text: _whole_number(text),
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?": float,
    r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)": lambda text: float(text.replace(".", "")),
}


def read_file(path: Path) -> tuple[Any, dict[str, int]]:
    """Return the file's value, and the line of each field `section.key` in it."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"the file has {size:,} bytes, over the limit of {MAX_BYTES:,}", where=str(path))
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)  # a pipe does not tell its size, and a device has no end
        if len(content) > MAX_BYTES:
            raise ConfigError(f"it does not end within the limit of {MAX_BYTES:,} bytes", where=str(path))
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
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
    return read_text(_json_as_yaml(text) if path.suffix == ".json" else text, where=str(path))


def read_text(text: str, *, where: str) -> tuple[Any, dict[str, int]]:
    """Return the value that a text holds, and the line of each field in it; `where` names the text in errors."""
    try:
        _refuse_unsafe(text, where)
        root = yaml.compose(text, yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise ConfigError(f"not readable as YAML or JSON: {error.problem}", where=at) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not readable as YAML or JSON: {error}", where=where) from None
    lines: dict[str, int] = {}
    return (None if root is None else _build(root, "", lines, where)), lines


def plain_scalar(text: str) -> Any:
    """Return what an unquoted word stands for: a number, true, false, null, or the word itself."""
    for pattern, convert in _SCALARS.items():
        if re.fullmatch(pattern, text):
            return convert(text)
    return text


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} characters is over the limit of {MAX_DIGITS}")
    return int(text, _BASES.get(text[:2], 10))


def _json_as_yaml(text: str) -> str:
    """JSON may be indented by tabs, and may hold characters that YAML refuses or takes for the end of a line."""
    text = text.replace("\t", " ")
    return re.sub("[\x7f-\x9f\u2028\u2029\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _refuse_unsafe(text: str, where: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, yaml.BaseLoader)):
        at, tag = _at(where, event), getattr(event, "tag", None)
        if number >= MAX_EVENTS:
            raise ConfigError(f"more than {MAX_EVENTS:,} values and keys", where=at, fix="write less of them")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ConfigError("anchors and aliases are not read", where=at, fix="write the value out")
        if tag:
            raise ConfigError(f"the tag {tag} is not read", where=at, fix="write the value without it")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"nested deeper than {MAX_DEPTH} levels", where=at)


def _build(node: yaml.Node, field: str, lines: dict[str, int], where: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, field, lines, where)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, f"{field}.{index}", lines, where) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    if node.style is not None:
        return _whole(node, where)
    try:
        return plain_scalar(node.value)
    except ValueError as error:
        raise ConfigError(f"{field}: {error}", where=_at(where, node), fix="use plain numbers and words") from None


def _build_mapping(node: yaml.MappingNode, field: str, lines: dict[str, int], where: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = _at(where, key_node)
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError("a key is a list or a mapping", where=at, fix="write KEY: VALUE")
        key = _whole(key_node, where)
        inner = f"{field}.{key}" if field else key
        if key in tree:
            raise ConfigError(f"{inner} is set twice, first in line {lines[inner]}", where=at, fix="delete one")
        lines[inner] = _line(key_node)
        tree[key] = _build(value_node, inner, lines, where)
    return tree


def _at(where: str, part: yaml.Event | yaml.Node) -> str:
    return f"{where}:{_line(part)}"


def _line(part: yaml.Event | yaml.Node) -> int:
    assert part.start_mark is not None
    return part.start_mark.line + 1


def _whole(node: yaml.ScalarNode, where: str) -> str:
    """The node's text; JSON may write a character above U+FFFF as two escapes, which YAML takes for two halves."""
    text = str(node.value)
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16") if re.search("[\ud800-\udfff]", text) else text
    except UnicodeDecodeError:
        raise ConfigError(f"{text!r} holds half a character", where=_at(where, node), fix="write it whole") from None
