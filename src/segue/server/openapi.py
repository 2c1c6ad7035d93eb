"""The OpenAPI document, from the operations and their schemas."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from segue.protocol.failures import OpenAIErrorEvent, OpenAIErrorResponse, TypedEvent
from segue.protocol.tgi import ErrorResponse
from segue.server.operations import Operation

__all__ = ["event_type", "openapi_document"]

_TAG = "Text Generation Inference"
_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: ("The request cannot be used", "validation"),
    404: ("The model `x` does not exist", "model_not_found"),
    422: ("Input validation error", "validation"),
    424: ("Request failed during generation", "generation"),
    429: ("Model is overloaded", "overloaded"),
    500: ("Incomplete generation", "incomplete_generation"),
    503: ("unhealthy", "healthcheck"),
}
_BODY_ERRORS = {
    400: "The body is no JSON",
    408: "The body comes too slowly",
    413: "The body is larger than the limit",
    415: "The body is not called JSON",
    422: "The body does not fit",
}
_NAME = {"type": "string", "minLength": 1}


def openapi_document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """OpenAPI 3.0.3, as TGI's: title, tag, operation ids and schema names are its own."""
    types = {kind for each in operations for kind in _types(each) if kind is not None}
    adapters = [(repr(kind), "validation", TypeAdapter(kind)) for kind in sorted(types, key=repr)]
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REF)  # type: ignore[arg-type]
    by_type = {key: _as_3_0(schema) for (key, _), schema in schemas.items()}
    paths: dict[str, Any] = {}
    for each in operations:
        path = each.path.replace(":path}", "}")
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, path, by_type)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": _TAG,
            "description": "Text Generation Webserver",
            "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "version": version,
        },
        "tags": [{"name": _TAG, "description": "Hugging Face Text Generation Inference API, served by Segue"}],
        "paths": paths,
        "components": {
            "schemas": {name: _as_3_0(schema) for name, schema in definitions.get("$defs", {}).items()},
            "securitySchemes": {"ApiKey": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(operation: Operation) -> tuple[Any, ...]:
    return operation.request, operation.reply, event_type(operation), _error(operation)


def _error(operation: Operation) -> Any:
    return operation.error or (ErrorResponse | OpenAIErrorResponse if operation.is_openai else ErrorResponse)


def event_type(operation: Operation) -> Any:
    """What each event's ``data`` is: part of the answer, or why there is no more of it."""
    if operation.event is None or operation.event is TypedEvent:
        return operation.event
    if operation.is_openai:
        return operation.event | OpenAIErrorEvent
    return operation.event | (ErrorResponse if operation.error is None else ErrorResponse | OpenAIErrorEvent)


def _operation(operation: Operation, path: str, by_type: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "tags": [_TAG],
        "summary": operation.summary,
        "operationId": operation.operation_id or operation.handler.__name__,
        "responses": {"200": _success(operation, by_type), **_refusals(operation, by_type)},
    }
    in_path = re.findall(r"{(\w+)}", path)
    parameters = [{"name": each, "in": "path", "required": True, "schema": _NAME} for each in in_path]
    parameters += [{"name": each, "in": "query", "schema": {"type": "string"}} for each in operation.query]
    if parameters:
        document["parameters"] = parameters
    if operation.request is not None:
        content = {"application/json": {"schema": by_type[repr(operation.request)]}}
        document["requestBody"] = {"content": content, "required": True}
    if operation.needs_key:
        document["security"] = [{}, {"ApiKey": []}]
    return document


def _refusals(operation: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    """By status: wrong keys, bodies that cannot be read, then requests that cannot be answered."""
    refusals: dict[str, Any] = {}
    schema = by_type[repr(_error(operation))]
    if operation.needs_key:
        refusals["401"] = {"description": "Missing or wrong API key"}
    if operation.request is not None:
        has_object = operation.is_openai or operation.error is not None
        content = {"text/plain": {"schema": {"type": "string"}}}
        content |= {"application/json": {"schema": schema}} if has_object else {}
        refusals |= {str(status): {"description": text, "content": content} for status, text in _BODY_ERRORS.items()}
    for status in operation.errors:
        text, error_type = _ERRORS[status]
        answer: dict[str, Any] = {"schema": schema}
        if _error(operation) is ErrorResponse:
            answer["example"] = {"error": text, "error_type": error_type}
        is_event = operation.event is not None and operation.reply is None
        content = {"text/event-stream" if is_event else "application/json": answer}
        body_error = refusals.get(str(status), {"content": {}})
        refusals[str(status)] = {"description": text, "content": {**body_error["content"], **content}}
    return refusals


def _success(operation: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.reply is not None:
        content["application/json"] = {"schema": by_type[repr(operation.reply)]}
    if operation.event is not None:
        content["text/event-stream"] = {"schema": by_type[repr(event_type(operation))]}
    if operation.text:
        content["text/plain"] = {"schema": {"type": "string"}}
    return {"description": operation.summary, **({"content": content} if content else {})}


def _as_3_0(schema: Any) -> Any:
    """JSON Schema 2020-12 as pydantic writes it, in OpenAPI 3.0's words."""
    if isinstance(schema, list):
        return [_as_3_0(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = dict(schema)
    schema.pop("title", None)
    if schema.get("format") == "float":
        # The range of an f32 goes without saying.
        schema.pop("minimum", None)
        schema.pop("maximum", None)
    if "description" in schema:
        schema["description"] = schema["description"].replace("``", "`")
    if "$ref" in schema and len(schema) > 1:
        schema["allOf"] = [{"$ref": schema.pop("$ref")}]
    if "const" in schema:
        schema["enum"] = [schema.pop("const")]
    if "examples" in schema:
        schema["example"] = schema.pop("examples")[0]
    result = {key: _as_3_0(value) for key, value in schema.items() if key not in ("properties", "example", "default")}
    result |= {key: schema[key] for key in ("example", "default") if schema.get(key) is not None}
    if "properties" in schema:
        result["properties"] = {name: _as_3_0(value) for name, value in schema["properties"].items()}
    members = result.get("anyOf", [])
    if {"type": "null"} in members:
        rest = [member for member in members if member != {"type": "null"}]
        del result["anyOf"]
        merged = rest[0] if len(rest) == 1 and "$ref" not in rest[0] else {"allOf" if len(rest) == 1 else "anyOf": rest}
        result = {**merged, **result, "nullable": True}
    return result
