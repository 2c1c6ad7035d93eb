"""Grammars on the wire: their shapes, what reaches the engine, what is refused with TGI's words (spec 2.4)."""

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from serving import EOS, Serving, fails, ids_of, says

from segue.core.grammar import MAX_REGEX_CHARS, MAX_SCHEMA_CHARS, Grammar
from segue.server import grammars

Serve = Callable[..., Serving]

SCHEMA = {"properties": {"b": {"type": "string"}, "a": {"type": "integer"}}, "required": ["a"]}
CLOSED = {"type": "object", **SCHEMA, "additionalProperties": False}
NAMED = {"name": "answer", "strict": True, "schema": SCHEMA}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


async def grammar_of(app: Serving, path: str, body: Any) -> Grammar | None:
    """What the engine was given."""
    reply = await app.post(path, body)
    assert reply.status_code == 200, reply.text
    return app.engine.requests[-1].sampling.grammar


def generate(grammar: Any) -> Any:
    return {"inputs": "hi", "parameters": {"grammar": grammar}}


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_schema", "value": NAMED},
        {"type": "json_schema", "value": {"schema": SCHEMA}},
    ],
)
async def test_V6_shapes_of_a_schema(serve: Serve, grammar: Any) -> None:
    app = serve()
    for path, body in (
        ("/generate", generate(grammar)),
        ("/v1/chat/completions", CHAT | {"response_format": grammar}),
        ("/v1/completions", {"prompt": "hi", "response_format": grammar}),
    ):
        given = await grammar_of(app, path, body)
        assert given is not None
        assert given.kind == "json_schema"
        assert json.loads(given.source) == CLOSED
        assert given.source.index('"b"') < given.source.index('"a"')


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_V6_openais_shapes(serve: Serve, path: str) -> None:
    app = serve()
    body = CHAT | {"prompt": "hi"}
    native = {"type": "json_schema", "json_schema": NAMED}
    given = await grammar_of(app, path, body | {"response_format": native})
    assert given is not None
    assert json.loads(given.source) == CLOSED
    given = await grammar_of(app, path, body | {"response_format": {"type": "json_object"}})
    assert given is not None
    assert json.loads(given.source) == {"type": "object", "properties": {}, "additionalProperties": True}
    assert await grammar_of(app, path, body | {"response_format": {"type": "text"}}) is None
    assert await grammar_of(app, path, body | {"response_format": None}) is None


async def test_V6_a_regex_reaches_the_engine_as_it_is(serve: Serve) -> None:
    app, grammar = serve(), {"type": "regex", "value": "^(a|b)\\d+$"}
    assert await grammar_of(app, "/generate", generate(grammar)) == Grammar("regex", "^(a|b)\\d+$")
    chat = CHAT | {"response_format": grammar}
    assert await grammar_of(app, "/v1/chat/completions", chat) == Grammar("regex", "^(a|b)\\d+$")


def deep(levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


REFUSED: list[tuple[Any, str]] = [
    ({"type": "json", "value": 5}, "grammar is not supported"),
    ({"type": "json", "value": [SCHEMA]}, "grammar is not supported"),
    ({"type": "json", "value": "[]"}, "grammar is not supported"),
    ({"type": "json", "value": {"type": "object"}}, "grammar is not valid: Grammar must have a 'properties' field"),
    (
        {"type": "json_schema", "value": {"schema": {"type": "string"}}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
    ({"type": "json", "value": '{"properties":'}, "grammar is not valid: Expecting value: line 1 column 15 (char 14)"),
    (
        {"type": "json", "value": json.dumps(deep(140))},
        "grammar is not valid: schemas lie in each other more than 100 levels deep",
    ),
    (
        {"type": "json", "value": {"properties": {"a": {"type": "strng"}}}},
        "cannot compile regex from schema: Invalid type: strng",
    ),
    (
        {"type": "json", "value": {"properties": {"a": {"not": {"type": "string"}}}}},
        'cannot compile regex from schema: Unimplemented keys: ["not"]',
    ),
    (
        {"type": "json", "value": {"properties": {"a": {"$ref": "#/$defs/none"}}}},
        "cannot compile regex from schema: Pointer '/$defs/none' does not exist",
    ),
    (
        {"type": "json", "value": {"properties": {"a": {"type": "string", "pattern": "("}}}},
        "cannot compile regex from schema: regex parse error: ( ^ error: unclosed group",
    ),
    (
        {"type": "regex", "value": "a" * (MAX_REGEX_CHARS + 1)},
        f"grammar is not valid: the regular expression is longer than {MAX_REGEX_CHARS} characters",
    ),
    (
        {"type": "json", "value": {"properties": {"a": {"enum": ["x" * MAX_SCHEMA_CHARS]}}}},
        f"grammar is not valid: the schema is longer than {MAX_SCHEMA_CHARS} characters",
    ),
    (
        {"type": "json", "value": {"properties": {k: {"pattern": "a" * (MAX_REGEX_CHARS // 2 + 1)} for k in "ab"}}},
        f"grammar is not valid: its patterns are longer than {MAX_REGEX_CHARS} characters",
    ),
]


@pytest.mark.parametrize(("grammar", "text"), REFUSED, ids=lambda value: value[:60] if isinstance(value, str) else "")
async def test_V6_what_is_refused(serve: Serve, grammar: Any, text: str) -> None:
    app = serve()
    error = {"error": f"Input validation error: {text}", "error_type": "validation"}
    reply = await app.post("/generate", generate(grammar))
    assert (reply.status_code, reply.json()) == (422, error)
    reply = await app.post("/v1/chat/completions", CHAT | {"response_format": grammar})
    assert (reply.status_code, reply.json()["error"]["message"]) == (422, error["error"])
    [event] = await app.events("/generate_stream", generate(grammar))
    assert event == error
    assert app.engine.requests == []


@pytest.mark.parametrize("grammar", [{"type": "regex", "value": "a"}, {"type": "json", "value": SCHEMA}])
async def test_V8_switched_off(serve: Serve, grammar: Any) -> None:
    app = serve(disable_grammar_support=True)
    reply = await app.post("/generate", generate(grammar))
    assert (reply.status_code, reply.json()["error"]) == (422, "Input validation error: grammar is not supported")
    reply = await app.post("/v1/chat/completions", CHAT | {"response_format": grammar})
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == "Input validation error: grammar is not supported"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"type": "json"}, "missing field `value`"),
        ({"type": "json_schema"}, "missing field `value`"),
        ({"type": "regex"}, "missing field `value`"),
        ({"type": "xml"}, "unknown variant `xml`"),
        ({}, "missing field `type`"),
    ],
)
async def test_V6_response_formats_that_are_none(serve: Serve, given: Any, text: str) -> None:
    reply = await serve().post("/v1/chat/completions", CHAT | {"response_format": given})
    assert reply.status_code == 422
    assert text in reply.text


async def test_V6_an_expression_that_the_engine_cannot_compile(serve: Serve) -> None:
    """TGI's status for it: the router does not look at regular expressions."""
    app = serve(script=fails("grammar is not valid: unclosed group"))
    reply = await app.post("/generate", generate({"type": "regex", "value": "("}))
    assert reply.status_code == 424
    assert reply.json() == {
        "error": "Request failed during generation: grammar is not valid: unclosed group",
        "error_type": "generation",
    }


async def test_a_large_schema_holds_up_nobody(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    check = grammars._fault
    monkeypatch.setattr(grammars, "_fault", lambda source: (gate.wait(20), check(source))[1])
    app = serve()
    slow = asyncio.ensure_future(app.post("/generate", generate({"type": "json", "value": SCHEMA})))
    await asyncio.sleep(0)
    assert (await app.post("/generate", {"inputs": "hi"})).status_code == 200
    assert (await app.post("/generate", generate({"type": "regex", "value": "a"}))).status_code == 200
    assert not slow.done()
    gate.set()
    assert (await slow).status_code == 200


async def test_steps_of_several_tokens_are_one_event_each_token(serve: Serve) -> None:
    """Forced tokens come together."""
    app = serve(script=says('{"a":1}', tokens_a_step=3))
    events = await app.events("/generate_stream", generate({"type": "json", "value": SCHEMA}))
    assert [event["token"]["id"] for event in events] == [*ids_of('{"a":1}'), EOS]
    assert events[-1]["generated_text"] == '{"a":1}'
