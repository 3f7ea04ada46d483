"""The reference of all settings, and what each template changes: Markdown, made from the schema."""

import json
from typing import Any

from pytorch_dl.config import Config
from pytorch_dl.config.templates import TEMPLATES

KINDS = {"boolean": "`true`, `false`", "integer": "a whole number", "number": "a number", "string": "a text"}
BOUNDS = {  # as JSON Schema has them, and as pydantic leaves them where a setting is read by a function of its own
    **{"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"},
    **{"ge": "from", "gt": "above", "le": "up to", "lt": "below"},
}
HUGE = 2**62  # a bound that nobody meets
Schema = dict[str, Any]


def settings() -> list[str]:
    """A table for each section, and for what the lists in it hold."""
    schema = Config.model_json_schema()
    lines = []
    for name, reference in schema["properties"].items():
        section = _referred(schema, reference)
        lines += _table(name, section, prefix=f"{name}.")
        for key, field in section["properties"].items():
            if "$ref" in field.get("items", {}):
                lines += _table(f"each of {name}.{key}", _referred(schema, field["items"]), prefix="")
    return lines


def templates() -> list[str]:
    """What each template sets otherwise than the defaults do."""
    lines = ["| template | sets |", "|---|---|"]
    for name, sections in TEMPLATES.items():
        changes = [
            f"`{section}.{key}={_shown(value)}`" for section, keys in sections.items() for key, value in keys.items()
        ]
        lines.append(f"| `{name}` | {' '.join(changes)} |")
    return lines


def may_be(field: Schema) -> str:
    """The values that a part of the schema allows, in words."""
    if "anyOf" in field:
        return " or ".join(may_be(part) for part in field["anyOf"] if part.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return "a list, see below"
    bounds = [f"{word} {_shown(field[bound])}" for bound, word in BOUNDS.items() if field.get(bound, HUGE) < HUGE]
    return " ".join([KINDS[field["type"]], *bounds])


def _referred(schema: Schema, reference: Schema) -> Schema:
    found: Schema = schema["$defs"][reference["$ref"].rpartition("/")[2]]
    return found


def _table(title: str, section: Schema, *, prefix: str) -> list[str]:
    lines = [f"## {title}", "", section["description"].strip(), ""]
    lines += ["| setting | default | may be | what it is |", "|---|---|---|---|"]
    for key, field in section["properties"].items():
        given = field.get("default")
        default = "needed" if key in section.get("required", ()) else "" if given is None else f"`{_shown(given)}`"
        lines.append(f"| `{prefix}{key}` | {default} | {may_be(field)} | {field['description']} |")
    return [*lines, ""]


def _shown(value: object) -> str:
    """As YAML and the command line have it."""
    return value if isinstance(value, str) else json.dumps(value)
