"""What TGI's JSON reader (serde_json under axum) says of a body that it cannot take."""

import json
from collections.abc import Iterator, Sequence
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

__all__ = ["describe_mismatch"]

Path = tuple[str | int, ...]

_MAX_ECHO_CHARS = 200
_MAX_LOCATE_BYTES = 1 << 16
"""A longer body's error comes without its place: a search through two megabytes would hold up every other request."""
_EXPECTED = {
    "string_type": "a string",
    "bool_type": "a boolean",
    "list_type": "a sequence",
    "dict_type": "adjacently tagged enum",
}
_DECODER = json.JSONDecoder()


class Span(NamedTuple):
    """Offsets of a value in the text."""

    start: int
    end: int


def describe_mismatch(data: bytes, errors: Sequence[ErrorDetails]) -> str:
    """serde's text for the first of pydantic's ``errors`` in the document, which is JSON but does not fit."""
    if len(data) > _MAX_LOCATE_BYTES:
        path = _without_tags(json.loads(data), errors[0])
        return _describe(path, errors[0], "…")[1]
    text = data.decode()
    document = json.loads(text)
    described: list[tuple[int, str]] = []
    for error in errors:
        path = _without_tags(document, error)
        span = _locate(text, 0, path)
        if span is None:
            end = (_locate(text, 0, path[:-1]) or Span(0, len(text))).end
            described.append((end, _describe(path, error, "")[1]))
        else:
            is_read, message = _describe(path, error, text[span.start : span.end])
            described.append((span.end if is_read else span.start, message))
    offset, message = min(described)
    line_start = text.rfind("\n", 0, offset) + 1
    line = text.count("\n", 0, line_start) + 1
    return f"{message} at line {line} column {len(text[line_start:offset].encode())}"


def _describe(path: Path, error: ErrorDetails, raw: str) -> tuple[bool, str]:
    """(whether serde had read the value before it refused it, path and message)."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "missing":
        return True, _prefixed(path[:-1], f"missing field `{path[-1]}`")
    if kind == "union_tag_not_found":
        return True, _prefixed(path, "missing field `type`")
    if kind == "union_tag_invalid":
        tags = ", ".join(f"`{tag.strip(chr(39))}`" for tag in str(context["expected_tags"]).split(", "))
        return True, _prefixed(path, f"unknown variant `{context['tag']}`, expected one of {tags}")
    if kind == "expected":
        expected = str(context["rust_type"])
    elif kind == "model_type":
        expected = f"struct {context['class_name']}"
    elif kind in _EXPECTED:
        expected = _EXPECTED[kind]
    else:
        return True, _prefixed(path, error["msg"])
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    fault = "value" if is_integer and kind == "expected" else "type"
    message = f"invalid {fault}: {_unexpected(value, raw)}, expected {expected}"
    return not isinstance(value, list | dict), _prefixed(path, message)


def _unexpected(value: Any, raw: str) -> str:
    raw = raw if len(raw) <= _MAX_ECHO_CHARS else raw[:_MAX_ECHO_CHARS] + "…"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{raw}`"
    if isinstance(value, int):
        return f"integer `{raw}`"
    if isinstance(value, float):
        return f"floating point `{raw}`"
    if isinstance(value, str):
        return f"string {raw}"
    return "sequence" if isinstance(value, list) else "map"


def _prefixed(path: Path, message: str) -> str:
    prefix = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return f"{prefix}: {message}" if prefix else message


def _without_tags(document: Any, error: ErrorDetails) -> Path:
    """pydantic's path without the parts that name a member of a union. A tag may be a key of the member, too."""
    is_missing = error["type"] == "missing"
    loc = error["loc"][:-1] if is_missing else error["loc"]
    readings = list(_readings(document, loc))
    path = next((path for path, value in readings if value == error["input"]), readings[0][0])
    return (*path, error["loc"][-1]) if is_missing else path


def _readings(document: Any, loc: Path) -> Iterator[tuple[Path, Any]]:
    """Every way to read ``loc``, each with the value that it leads to; as many keys as possible first."""
    if not loc:
        yield (), document
        return
    head, rest = loc[0], loc[1:]
    is_index = isinstance(head, int) and isinstance(document, list)
    if is_index or (isinstance(document, dict) and head in document):
        yield from (((head, *path), value) for path, value in _readings(document[head], rest))
    if not is_index:
        yield from _readings(document, rest)


def _locate(text: str, at: int, path: Path) -> Span | None:
    """Where the value at ``path`` is; ``text`` is JSON from ``at`` on. None: there is no such value."""
    at = _skip_space(text, at)
    if not path:
        return Span(at, _DECODER.raw_decode(text, at)[1])
    close = "}" if isinstance(path[0], str) else "]"
    index = 0
    at = _skip_space(text, at + 1)
    while text[at] != close:
        key: str | int = index
        if close == "}":
            key, at = _DECODER.raw_decode(text, at)
            at = _skip_space(text, at) + 1
        if key == path[0]:
            return _locate(text, at, path[1:])
        at = _skip_space(text, _DECODER.raw_decode(text, _skip_space(text, at))[1])
        if text[at] == ",":
            at = _skip_space(text, at + 1)
        index += 1
    return None


def _skip_space(text: str, at: int) -> int:
    end: int = WHITESPACE.match(text, at).end()
    return end
