"""The JSON Schema of configuration files, by which an editor completes, explains and checks them.

A YAML file names `schema.json` in its first line; `pytorch-dl config schema > schema.json` writes it beside the file.
"""

from collections.abc import Callable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from pytorch_dl.config.model_config import Config
from pytorch_dl.config.units import COUNT_PATTERN, SECONDS_PATTERN, parse_column, parse_count, parse_seconds

# What a setting may also be, by what reads it.
_ALSO: dict[Callable[[object], object], JsonSchemaValue] = {
    parse_count: {"type": "string", "pattern": COUNT_PATTERN},
    parse_seconds: {"type": "string", "pattern": SECONDS_PATTERN},
    parse_column: {"type": "integer", "minimum": 0},
}
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}  # pydantic's names


def json_schema() -> dict[str, Any]:
    """The schema, each setting with its meaning and default."""
    schema: dict[str, Any] = _in_json_terms(Config.model_json_schema(schema_generator=_Generator))
    return schema


class _Generator(GenerateJsonSchema):
    """Knows that numbers may be written as people do: 100k, 45min."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        found = super().function_before_schema(schema)
        also = _ALSO.get(schema["function"]["function"])  # type: ignore[arg-type]
        return {"anyOf": [found, also]} if also else found


def _in_json_terms(part: Any) -> Any:
    if isinstance(part, list):
        return [_in_json_terms(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {_LIMITS.get(name, name): _in_json_terms(value) for name, value in part.items()}
