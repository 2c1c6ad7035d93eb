"""The OpenAPI document, from the operations and their schemas."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from segue.protocol.tgi import ErrorResponse
from segue.server.operations import Operation

__all__ = ["openapi_document"]

_TAG = "Text Generation Inference"
_REF = "#/components/schemas/{model}"
_ERRORS = {
    404: ("The model `x` does not exist", "model_not_found"),
    422: ("Input validation error", "validation"),
    424: ("Request failed during generation", "generation"),
    429: ("Model is overloaded", "overloaded"),
    500: ("Incomplete generation", "incomplete_generation"),
    503: ("unhealthy", "healthcheck"),
}


def openapi_document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """OpenAPI 3.0.3, as TGI's: title, tag, operation ids and schema names are its own."""
    types = {kind for each in operations for kind in (each.request, each.reply, each.event) if kind is not None}
    adapters = [(repr(kind), "validation", TypeAdapter(kind)) for kind in (*sorted(types, key=repr), ErrorResponse)]
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


def _operation(operation: Operation, path: str, by_type: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "tags": [_TAG],
        "summary": operation.summary,
        "operationId": operation.operation_id or operation.handler.__name__,
        "responses": {"200": _success(operation, by_type)},
    }
    names = re.findall(r"{(\w+)}", path)
    if names:
        schema = {"type": "string"}
        document["parameters"] = [{"name": each, "in": "path", "required": True, "schema": schema} for each in names]
    if operation.request is not None:
        content = {"application/json": {"schema": by_type[repr(operation.request)]}}
        document["requestBody"] = {"content": content, "required": True}
    if operation.needs_key:
        document["security"] = [{}, {"ApiKey": []}]
    for status in operation.errors:
        text, error_type = _ERRORS[status]
        example = {"error": text, "error_type": error_type}
        schema = by_type[repr(ErrorResponse)]
        is_event = operation.event is not None and operation.reply is None
        media_type = "text/event-stream" if is_event else "application/json"
        document["responses"][str(status)] = {
            "description": text,
            "content": {media_type: {"schema": schema, "example": example}},
        }
    return document


def _success(operation: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.reply is not None:
        content["application/json"] = {"schema": by_type[repr(operation.reply)]}
    if operation.event is not None:
        content["text/event-stream"] = {"schema": by_type[repr(operation.event)]}
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
