"""The OpenAPI document is one, in OpenAPI 3.0; that it has TGI's names is seen in tests/contract."""

from collections.abc import Callable, Iterator
from typing import Any

from serving import Serving

from segue.server.app import OPERATIONS
from segue.server.openapi import openapi_document

Serve = Callable[..., Serving]


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def test_every_reference_leads_somewhere() -> None:
    document = openapi_document(OPERATIONS, "1")
    names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    references = {node["$ref"] for node in walk(document) if "$ref" in node}
    assert references
    assert references <= names


def test_operation_ids_differ() -> None:
    document = openapi_document(OPERATIONS, "1")
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)


# 3.0 has no type "null", no "const", no "examples" of a schema, and ignores what stands beside "$ref".
def test_nothing_that_openapi_3_0_does_not_know() -> None:
    for schema in walk(openapi_document(OPERATIONS, "1")["components"]["schemas"]):
        assert schema.get("type") != "null"
        assert "const" not in schema
        assert "examples" not in schema
        assert "$defs" not in schema
        assert "$ref" not in schema or set(schema) == {"$ref"}


def test_nullable_and_bounds() -> None:
    schemas = openapi_document(OPERATIONS, "1")["components"]["schemas"]
    fields = schemas["GenerateParameters"]["properties"]
    assert fields["seed"]["nullable"] is True
    assert (fields["max_new_tokens"]["minimum"], fields["max_new_tokens"]["maximum"]) == (0, 2**32 - 1)
    assert "nullable" not in fields["do_sample"]
    assert fields["temperature"] == {
        "type": "number",
        "format": "float",
        "nullable": True,
        "example": 0.5,
        "description": fields["temperature"]["description"],
    }
    assert schemas["GenerateRequest"]["required"] == ["inputs"]
    assert schemas["Token"]["required"] == ["id", "text", "logprob", "special"]


async def test_R13_it_is_served(serve: Serve) -> None:
    reply = await serve().http.get("/api-doc/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    assert set(reply.json()["paths"]) == {each.path.replace(":path}", "}") for each in OPERATIONS}
