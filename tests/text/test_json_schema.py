import json

import pytest

from segue.text.json_schema import MAX_DEPTH, SchemaError, is_object_schema, read_schema, tgi_schema

A = {"type": "string"}


def test_a_schema_may_be_a_text() -> None:
    assert read_schema('{"properties": {"b": {}, "a": {}}}') == {"properties": {"b": {}, "a": {}}}
    assert read_schema({"properties": {}}) == {"properties": {}}
    assert read_schema(5) == 5


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[" * 100_000])
def test_a_text_that_is_no_json(text: str) -> None:
    with pytest.raises(SchemaError):
        read_schema(text)


def test_object_schemas() -> None:
    assert is_object_schema({"properties": {}})
    assert not any(map(is_object_schema, ({}, {"type": "object"}, [], "properties", None)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"properties": {"a": A}}, {"type": "object", "properties": {"a": A}, "additionalProperties": False}),
        (
            {"properties": {"a": A}, "additionalProperties": True},
            {"type": "object", "properties": {"a": A}, "additionalProperties": True},
        ),
        (
            {"properties": {"o": {"properties": {"a": A}}}, "additionalProperties": {"properties": {}}},
            {
                "type": "object",
                "properties": {"o": {"properties": {"a": A}, "type": "object", "additionalProperties": False}},
                "additionalProperties": {"properties": {}, "type": "object", "additionalProperties": False},
            },
        ),
        (  # a property may have any name
            {"properties": {"properties": {"properties": {"enum": A}}, "enum": A}},
            {
                "type": "object",
                "properties": {
                    "properties": {"properties": {"enum": A}, "type": "object", "additionalProperties": False},
                    "enum": A,
                },
                "additionalProperties": False,
            },
        ),
        (  # data are no schemas
            {"properties": {"a": {"const": {"properties": {}}, "enum": [{"properties": {}}]}}},
            {
                "type": "object",
                "properties": {"a": {"const": {"properties": {}}, "enum": [{"properties": {}}]}},
                "additionalProperties": False,
            },
        ),
        (
            {"properties": {"a": {"anyOf": [{"properties": {"x": A}}, A]}}},
            {
                "type": "object",
                "properties": {
                    "a": {"anyOf": [{"properties": {"x": A}, "type": "object", "additionalProperties": False}, A]}
                },
                "additionalProperties": False,
            },
        ),
        (  # closed parts would admit nothing together
            {"properties": {"a": A}, "allOf": [{"properties": {"b": A}}]},
            {"type": "object", "properties": {"a": A}, "allOf": [{"properties": {"b": A}}]},
        ),
        (
            {"properties": {"a": A}, "anyOf": [{"required": ["a"]}, {"properties": {"b": A}}]},
            {"type": "object", "properties": {"a": A}, "anyOf": [{"required": ["a"]}, {"properties": {"b": A}}]},
        ),
        ({"properties": 5, "items": 7}, {"type": "object", "properties": 5, "items": 7}),
    ],
)
def test_what_tgi_takes_for_granted(given: dict[str, object], expected: dict[str, object]) -> None:
    before = json.dumps(given)
    assert tgi_schema(given) == expected
    assert json.dumps(given) == before


def test_order_is_kept() -> None:
    schema = tgi_schema({"properties": {"z": A, "a": A, "m": {"properties": {"y": A, "b": A}}}})
    assert list(schema["properties"]) == ["z", "a", "m"]
    assert list(schema["properties"]["m"]["properties"]) == ["y", "b"]


def test_depth_is_bounded() -> None:
    schema: dict[str, object] = {"properties": {}}
    for _ in range(MAX_DEPTH):
        schema = {"properties": {"a": schema}}
    with pytest.raises(SchemaError, match="levels deep"):
        tgi_schema(schema)
