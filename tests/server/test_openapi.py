"""The OpenAPI document: TGI's names, in OpenAPI 3.0."""

from collections.abc import Callable, Iterator
from typing import Any

from serving import Serving

from segue.server.app import OPERATIONS
from segue.server.openapi import openapi_document

Serve = Callable[..., Serving]

# Of TGI's own document, less vendor routes and image chunks' names.
TGI_SCHEMAS = {
    "BestOfSequence",
    "ChatCompletion",
    "ChatCompletionChoice",
    "ChatCompletionChunk",
    "ChatCompletionComplete",
    "ChatCompletionDelta",
    "ChatCompletionLogprob",
    "ChatCompletionLogprobs",
    "ChatCompletionTopLogprob",
    "ChatRequest",
    "ChatTokenizeResponse",
    "Chunk",
    "CompatGenerateRequest",
    "CompletionComplete",
    "CompletionFinal",
    "CompletionRequest",
    "DeltaToolCall",
    "Details",
    "ErrorResponse",
    "FinishReason",
    "Function",
    "FunctionDefinition",
    "FunctionName",
    "GenerateParameters",
    "GenerateRequest",
    "GenerateResponse",
    "GrammarType",
    "Info",
    "Message",
    "MessageChunk",
    "MessageContent",
    "ModelInfo",
    "OutputMessage",
    "PrefillToken",
    "Prompt",
    "SimpleToken",
    "StreamDetails",
    "StreamOptions",
    "StreamResponse",
    "TextMessage",
    "Token",
    "TokenizeResponse",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallMessage",
    "ToolChoice",
    "Url",
    "Usage",
}
TGI_OPERATIONS = {
    ("post", "/"): "compat_generate",
    ("post", "/generate"): "generate",
    ("post", "/generate_stream"): "generate_stream",
    ("post", "/chat_tokenize"): "get_chat_tokenize",
    ("post", "/tokenize"): "tokenize",
    ("post", "/v1/chat/completions"): "chat_completions",
    ("post", "/v1/completions"): "completions",
    ("get", "/v1/models"): "openai_get_model_info",
    ("get", "/info"): "get_model_info",
    ("get", "/health"): "health",
    ("get", "/metrics"): "metrics",
    ("post", "/invocations"): "sagemaker_compatibility",
    ("post", "/vertex"): "vertex_compatibility",
}


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list):
        for value in node:
            yield from walk(value)


def test_R13_tgis_operations_and_schemas() -> None:
    document = openapi_document(OPERATIONS, "1.2.3")
    assert document["openapi"] == "3.0.3"
    assert document["info"]["title"] == "Text Generation Inference"
    assert document["info"]["version"] == "1.2.3"
    assert set(document["components"]["schemas"]) >= TGI_SCHEMAS
    for (method, path), operation_id in TGI_OPERATIONS.items():
        assert document["paths"][path][method]["operationId"] == operation_id


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
