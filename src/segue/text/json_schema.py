"""JSON Schemas of requests, read as TGI reads them, for the grammar library."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["SchemaError", "is_object_schema", "read_schema", "tgi_schema"]

MAX_DEPTH = 100
"""Schemas in schemas; the grammar library reads JSON of 128 levels."""
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SINGLES = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_COMBINING = ("allOf", "anyOf", "oneOf", "if", "then", "else", "$ref", "$dynamicRef")
_OPEN = ("additionalProperties", "unevaluatedProperties", "patternProperties")


class SchemaError(Exception):
    """The schema cannot be read; the text says why."""


def read_schema(value: object) -> object:
    """A schema as it comes over the wire: JSON, or a text that holds JSON. Raises SchemaError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise SchemaError(str(error)) from error


def is_object_schema(schema: object) -> bool:
    return isinstance(schema, Mapping) and "properties" in schema


def tgi_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` with what TGI takes for granted: what has ``properties`` is an object, with no others than those.

    Schemas that combine objects (``allOf``, or ``anyOf``, ``$ref`` … beside ``properties``) keep JSON Schema's own
    meaning, since parts that are closed each for itself would admit nothing together.

    Raises SchemaError when schemas lie too deep in each other.
    """
    is_combining = any(
        "allOf" in each or ("properties" in each and any(key in each for key in _COMBINING))
        for each in _walk(schema, MAX_DEPTH)
    )
    closed = _copy(schema, closes=not is_combining)
    assert isinstance(closed, dict)
    return {"type": "object", **closed}


def _walk(schema: object, depth: int) -> Iterator[Mapping[str, Any]]:
    if depth == 0:
        raise SchemaError(f"schemas lie in each other more than {MAX_DEPTH} levels deep")
    if not isinstance(schema, Mapping):
        return
    yield schema
    for inner in _inner(schema):
        yield from _walk(inner, depth - 1)


def _inner(schema: Mapping[str, Any]) -> Iterator[object]:
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            yield from value.values()
        elif key in _LISTS and isinstance(value, list):
            yield from value
        elif key in _SINGLES:
            yield value


def _copy(schema: object, *, closes: bool) -> object:
    """A copy, its order kept; anything that is no schema is left to the grammar library to refuse."""
    if not isinstance(schema, Mapping):
        return schema
    copy: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            copy[key] = {name: _copy(inner, closes=closes) for name, inner in value.items()}
        elif key in _LISTS and isinstance(value, list):
            copy[key] = [_copy(inner, closes=closes) for inner in value]
        elif key in _SINGLES:
            copy[key] = _copy(value, closes=closes)
        else:
            copy[key] = value
    if closes and isinstance(schema.get("properties"), Mapping):
        copy.setdefault("type", "object")
        if not any(key in schema for key in _OPEN):
            copy["additionalProperties"] = False
    return copy
