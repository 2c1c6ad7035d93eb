"""Bodies that cannot be used: status and words are axum's and serde's."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from serving import Connection, Serving
from starlette.requests import Request

from segue.protocol.openai import ChatRequest, CompletionRequest
from segue.protocol.tgi import CompatGenerateRequest, GenerateRequest
from segue.server.bodies import BodyError, parse_json, read_json

Serve = Callable[..., Serving]

SHAPES = [
    ('{"inputs": 1}', "inputs: invalid type: integer `1`, expected a string at line 1 column 12"),
    ('{"inputs": ["a"]}', "inputs: invalid type: sequence, expected a string at line 1 column 11"),
    ('{"inputs": null}', "inputs: invalid type: null, expected a string at line 1 column 15"),
    ('{"inputs": true}', "inputs: invalid type: boolean `true`, expected a string at line 1 column 15"),
    ('{"inputs": {}}', "inputs: invalid type: map, expected a string at line 1 column 11"),
    ('{"a":1}', "missing field `inputs` at line 1 column 7"),
    ("[1]", "invalid type: sequence, expected struct CompatGenerateRequest at line 1 column 0"),
    ('{"inputs":"a","stream":null}', "stream: invalid type: null, expected a boolean at line 1 column 27"),
    (
        '{"inputs":"a",\n "parameters":null}',
        "parameters: invalid type: null, expected struct GenerateParameters at line 2 column 18",
    ),
    (
        '{"inputs":"é","parameters":{"top_k":1.0}}',
        "parameters.top_k: invalid type: floating point `1.0`, expected i32 at line 1 column 40",
    ),
    (
        '{"inputs":"a","parameters":{"max_new_tokens":-1}}',
        "parameters.max_new_tokens: invalid value: integer `-1`, expected u32 at line 1 column 47",
    ),
    (
        '{"inputs":"a","parameters":{"seed":18446744073709551616}}',
        "parameters.seed: invalid value: integer `18446744073709551616`, expected u64 at line 1 column 55",
    ),
    (
        '{"inputs":"a","parameters":{"best_of":"2"}}',
        'parameters.best_of: invalid type: string "2", expected usize at line 1 column 41',
    ),
    (
        '{"inputs":"a","parameters":{"temperature":"hot"}}',
        'parameters.temperature: invalid type: string "hot", expected f32 at line 1 column 47',
    ),
    (
        '{"inputs":"a","parameters":{"stop":["a", 2, "c", 4]}}',
        "parameters.stop[1]: invalid type: integer `2`, expected a string at line 1 column 42",
    ),
    (
        '{"inputs":"a","parameters":{"grammar":{"type":"x","value":1}}}',
        "parameters.grammar: unknown variant `x`, expected one of `json`, `json_object`, `regex`, `json_schema`"
        " at line 1 column 60",
    ),
    (
        '{"inputs":"a","parameters":{"grammar":{"type":"json"}}}',
        "parameters.grammar: missing field `value` at line 1 column 53",
    ),
    ('{"inputs":"a","parameters":{"grammar":{}}}', "parameters.grammar: missing field `type` at line 1 column 40"),
    # Of two faults the first in the text, whatever the order of our fields.
    (
        '{"parameters":{"top_p":"a"},"inputs":3}',
        'parameters.top_p: invalid type: string "a", expected f32 at line 1 column 26',
    ),
]
SYNTAX = [
    ("", "EOF while parsing a value at line 1 column 0"),
    ('{"inputs":', "EOF while parsing a value at line 1 column 10"),
    ('{"inputs":"a"', "EOF while parsing an object at line 1 column 13"),
    ('{"inputs":"a",}', "trailing comma at line 1 column 15"),
    ('{"inputs":"a"} x', "trailing characters at line 1 column 16"),
    ("{'inputs':1}", "key must be a string at line 1 column 2"),
    ("hello", "expected value at line 1 column 1"),
    ("[" * 100_000, "recursion limit exceeded at line 1 column 202"),
    ('{"inputs":' + "9" * 5000 + "}", "number out of range at line 1 column 4312"),
]


def refusal(text: str | bytes, model: type) -> BodyError:
    with pytest.raises(BodyError) as caught:
        parse_json(text.encode() if isinstance(text, str) else text, model)
    return caught.value


@pytest.mark.parametrize(("text", "reason"), SHAPES)
def test_H4_a_body_that_does_not_fit(text: str, reason: str) -> None:
    error = refusal(text, CompatGenerateRequest)
    assert (error.status, str(error)) == (
        422,
        f"Failed to deserialize the JSON body into the target type: {reason}",
    )


@pytest.mark.parametrize(("text", "reason"), SYNTAX, ids=range(len(SYNTAX)))
def test_H4_a_body_that_is_no_json(text: str, reason: str) -> None:
    error = refusal(text, CompatGenerateRequest)
    assert (error.status, str(error)) == (400, f"Failed to parse the request body as JSON: {reason}")


@pytest.mark.parametrize("text", [b'{"inputs":"\xff"}', b'{"inputs":"\\ud800"}', b"\xef\xbb\xbf{}"])
def test_bytes_that_are_no_text(text: bytes) -> None:
    assert refusal(text, CompatGenerateRequest).status == 400


@pytest.mark.parametrize(
    ("text", "model", "reason"),
    [
        (
            '{"messages":[{"role":"u"}]}',
            ChatRequest,
            "messages[0]: data did not match any variant of untagged enum MessageBody at line 1 column 25",
        ),
        (
            '{"messages":[],"max_tokens":1,"max_completion_tokens":2}',
            ChatRequest,
            "duplicate field `max_tokens` at line 1 column 56",
        ),
        (
            '{"messages":[],"stop":1}',
            ChatRequest,
            "stop: data did not match any variant of untagged enum Stop at line 1 column 23",
        ),
        (
            '{"prompt":[]}',
            CompletionRequest,
            "Empty array detected. Do not use an empty array for the prompt. at line 1 column 13",
        ),
        (
            '{"prompt":[{}]}',
            CompletionRequest,
            "prompt: data did not match any variant of untagged enum Prompt at line 1 column 14",
        ),
        # The tag of the union's member is also a key of it.
        (
            '{"messages":[],"response_format":{"type":"json_schema","json_schema":null,"value":{}}}',
            ChatRequest,
            "response_format.value: missing field `schema` at line 1 column 84",
        ),
        (
            '{"messages":[],"response_format":{"type":"json"}}',
            ChatRequest,
            "response_format: missing field `value` at line 1 column 48",
        ),
    ],
)
def test_H4_openai_bodies_that_do_not_fit(text: str, model: type, reason: str) -> None:
    assert str(refusal(text, model)) == f"Failed to deserialize the JSON body into the target type: {reason}"


# Without a limit, searching the place of the error took four seconds in which no other request was served.
@pytest.mark.parametrize("items", ["1," * 900_000 + "1", '{"a":[]},' * 200_000 + "1"], ids=["numbers", "objects"])
def test_an_error_in_a_long_body_is_said_without_its_place(items: str) -> None:
    text = str(refusal('{"inputs":"a","parameters":{"stop":[' + items + "]}}", CompatGenerateRequest))
    assert text.startswith(
        "Failed to deserialize the JSON body into the target type: parameters.stop[0]: invalid type:"
    )
    assert "line" not in text


def test_a_long_value_is_not_repeated_whole() -> None:
    error = refusal(json.dumps({"inputs": "a", "parameters": {"top_k": "x" * 10_000}}), CompatGenerateRequest)
    assert len(str(error)) < 500


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/xml", "json", "multipart/form-data"])
async def test_H4_a_body_that_is_not_called_json(serve: Serve, content_type: str) -> None:
    reply = await serve().http.post("/generate", content=b'{"inputs":"a"}', headers={"content-type": content_type})
    assert (reply.status_code, reply.text) == (415, "Expected request with `Content-Type: application/json`")
    assert reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/cbor+json"]
)
async def test_bodies_that_are_called_json(serve: Serve, content_type: str) -> None:
    reply = await serve().http.post("/generate", content=b'{"inputs":"a"}', headers={"content-type": content_type})
    assert reply.status_code == 200


@pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream", "/v1/chat/completions", "/v1/completions"])
async def test_H4_the_reply_is_plain_text(serve: Serve, path: str) -> None:
    reply = await serve().post(path, [])
    assert reply.status_code == 422
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.text.startswith("Failed to deserialize the JSON body into the target type: ")


async def test_H3_the_payload_limit(serve: Serve) -> None:
    app = serve(payload_limit=100)
    exactly = {"inputs": "a" * (100 - len('{"inputs":""}'))}
    assert (await app.post("/generate", exactly)).status_code == 200
    reply = await app.post("/generate", {"inputs": exactly["inputs"] + "a"})
    assert (reply.status_code, reply.text) == (413, "Failed to buffer the request body: length limit exceeded")


async def test_H3_what_arrives_is_counted_whatever_the_header_says(serve: Serve) -> None:
    app = serve(payload_limit=100)
    chunks_taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal chunks_taken
        while True:
            chunks_taken += 1
            yield b" " * 30

    headers = {"content-type": "application/json", "content-length": "20"}
    reply = await app.http.post("/generate", content=chunks(), headers=headers)
    assert reply.status_code == 413
    assert chunks_taken <= 5


async def test_a_client_that_leaves_while_it_sends(serve: Serve) -> None:
    connection = Connection(serve().app, "/generate", {})
    connection._incoming.get_nowait()
    connection._incoming.put_nowait({"type": "http.request", "body": b'{"inp', "more_body": True})
    await connection.leave()
    assert connection.messages == []


async def test_H3_a_body_that_comes_too_slowly_is_given_up() -> None:
    sent = [{"type": "http.request", "body": b'{"inputs":', "more_body": True}]

    async def receive() -> dict[str, Any]:
        if not sent:
            await asyncio.Event().wait()
        return sent.pop()

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(BodyError) as caught:
        await read_json(Request(scope, receive), GenerateRequest, 1000, grace_s=0.01)
    assert caught.value.status == 408
