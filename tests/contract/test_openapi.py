"""TGI's API document against ours: all paths, schemas and fields are there, with types that take what TGI's take."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from contract.live import LiveServer
from contract.tgi_api import OPERATIONS, SCHEMAS, UNIONS, VALUES

TYPES = {"string", "integer", "number", "boolean", "any"}
OPERATION_ROWS = [line.split() for line in OPERATIONS.strip().splitlines()]
SCHEMA_ROWS = dict(row.split(":", 1) for row in re.sub(r"\n +", " ", SCHEMAS.strip()).splitlines())
FIELDS = [(name, *field.split("=", 1)) for name, fields in SCHEMA_ROWS.items() for field in fields.split()]


@pytest.fixture(scope="module")
def document(server: LiveServer) -> dict[str, Any]:
    reply = httpx.get(f"{server.url}/api-doc/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    parsed: dict[str, Any] = reply.json()
    return parsed


@pytest.mark.parametrize("row", OPERATION_ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_R13_operations(row: list[str], document: dict[str, Any]) -> None:
    method, path, operation_id, request, *statuses = row
    operation = document["paths"][path][method]
    assert operation["operationId"] == operation_id
    assert set(operation["responses"]) >= set(statuses)
    if request != "-":
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        assert request in names(document, schema)


def test_R13_what_the_document_says_of_itself(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.0.3"
    assert document["info"]["title"] == "Text Generation Inference"
    assert document["info"]["license"]["name"] == "Apache 2.0"
    assert [tag["name"] for tag in document["tags"]] == ["Text Generation Inference"]


@pytest.mark.parametrize(("name", "field", "kind"), FIELDS, ids=[f"{row[0]}.{row[1].strip('*')}" for row in FIELDS])
def test_R13_fields(name: str, field: str, kind: str, document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"][name]
    ours = schema["properties"][field.strip("*")]
    assert_takes(document, ours, kind)
    if not field.endswith("*"):
        assert field not in schema.get("required", [])


@pytest.mark.parametrize("name", UNIONS)
def test_R13_unions(name: str, document: dict[str, Any]) -> None:
    assert names(document, document["components"]["schemas"][name]) >= UNIONS[name]


@pytest.mark.parametrize("name", VALUES)
def test_R13_values(name: str, document: dict[str, Any]) -> None:
    members = [document["components"]["schemas"][name]]
    if "enum" not in members[0]:
        members = [member["properties"]["type"] for member in alternatives(document, members[0])]
    assert {value for member in members for value in member["enum"]} >= VALUES[name]


def test_R13_requests_need_no_more_than_tgis(document: dict[str, Any]) -> None:
    """A field that TGI's clients leave out may not be required here, whether TGI has it or not."""
    needed = {(name, field.strip("*")) for name, field, _ in FIELDS if field.endswith("*")}
    requests = {row[3] for row in OPERATION_ROWS} - {"-", "SagemakerRequest"} | {
        "GenerateParameters",
        "Message",
        "Tool",
    }
    for name in requests:
        required = document["components"]["schemas"][name].get("required", [])
        assert {(name, field) for field in required} <= needed


def alternatives(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a value may be, references and unions followed."""
    if "$ref" in schema:
        yield from alternatives(document, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    elif members := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for member in members:
            yield from alternatives(document, member)
    else:
        yield schema


def names(document: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    """The schemas that ``schema`` leads to without going through a field."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {name} | names(document, document["components"]["schemas"][name])
    members = schema.get("anyOf", []) + schema.get("oneOf", []) + schema.get("allOf", [])
    inner = [*members, *([schema["items"]] if "items" in schema else [])]
    return {name for member in inner for name in names(document, member)}


def assert_takes(document: dict[str, Any], schema: dict[str, Any], kind: str) -> None:
    """``kind``: ``string?``, ``[Token]``, … of the table."""
    bare = kind.removesuffix("?")
    if kind.endswith("?"):
        members = list(alternatives(document, schema))
        assert schema.get("nullable") or any(each.get("nullable") or not each.get("type") for each in members)
    if bare.startswith("["):
        [items] = [each["items"] for each in alternatives(document, schema) if each.get("type") == "array"]
        assert_takes(document, items, bare[1:-1])
    elif bare in TYPES:
        kinds = {each.get("type", "any") for each in alternatives(document, schema)}
        assert bare == "any" or bare in kinds
    else:
        assert bare in names(document, schema)
