"""The replies that TGI's own integration tests record, by shape: every key, no other, and the type of each value."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from contract.live import LiveServer, fake_server

TOKEN = {"id": int, "text": str, "logprob": float, "special": bool}
PREFILL_FIRST = {"id": int, "text": str, "logprob": None}
DETAILS = {"finish_reason": str, "generated_tokens": int, "seed": None, "prefill": [], "tokens": [TOKEN]}
SAMPLED = {**DETAILS, "seed": int}
STREAM_EVENT = {"index": int, "token": TOKEN, "generated_text": None, "details": None}
STREAM_DETAILS = {"finish_reason": str, "generated_tokens": int, "seed": None, "input_length": int}
USAGE = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}
TOP = {"token": str, "logprob": float}
LOGPROBS = {"content": [{"token": str, "logprob": float, "top_logprobs": [TOP]}]}
HEAD = {"object": str, "id": str, "created": int, "model": str, "system_fingerprint": str}
MESSAGE = {"role": str, "content": str}
CHOICE = {"index": int, "message": MESSAGE, "logprobs": None, "finish_reason": str}
CHAT = {**HEAD, "choices": [CHOICE], "usage": USAGE}
DELTA = {"index": int, "delta": MESSAGE, "logprobs": None, "finish_reason": None}
CHUNK = {**HEAD, "choices": [DELTA], "usage": None}
TEXT = {"index": int, "text": str, "logprobs": None, "finish_reason": str}
COMPLETION = {**HEAD, "choices": [TEXT], "usage": USAGE}
TEXT_CHUNK = {**HEAD, "choices": [TEXT]}
SPAN = {"id": int, "text": str, "start": int, "stop": int}
INFO = {
    "model_id": str,
    "model_sha": None,
    "model_pipeline_tag": None,
    "max_concurrent_requests": int,
    "max_best_of": int,
    "max_stop_sequences": int,
    "max_input_tokens": int,
    "max_total_tokens": int,
    "validation_workers": int,
    "max_client_batch_size": int,
    "router": str,
    "version": str,
    "sha": None,
    "docker_label": None,
}

INPUTS = {"inputs": "test request"}
ASKED = {"messages": [{"role": "user", "content": "test request"}]}


def asking(**parameters: Any) -> dict[str, Any]:
    return {**INPUTS, "parameters": {"max_new_tokens": 5, **parameters}}


REPLIES: list[tuple[str, str, dict[str, Any], Any]] = [
    ("text alone", "/generate", asking(), {"generated_text": str}),
    ("details", "/generate", asking(details=True), {"generated_text": str, "details": DETAILS}),
    ("array", "/", asking(details=True), [{"generated_text": str, "details": DETAILS}]),
    (
        "prefill",
        "/generate",
        asking(decoder_input_details=True),
        {
            "generated_text": str,
            "details": {**DETAILS, "prefill": [PREFILL_FIRST, {**PREFILL_FIRST, "logprob": float}]},
        },
    ),
    (
        "top tokens",
        "/generate",
        asking(details=True, top_n_tokens=2),
        {"generated_text": str, "details": {**DETAILS, "top_tokens": [[TOKEN]]}},
    ),
    (
        "best of",
        "/generate",
        asking(details=True, best_of=2, do_sample=True),
        {
            "generated_text": str,
            "details": {**SAMPLED, "best_of_sequences": [{"generated_text": str, **SAMPLED}]},
        },
    ),
    ("tokenize", "/tokenize", INPUTS, [SPAN]),
    ("chat_tokenize", "/chat_tokenize", ASKED, {"tokenize_response": [SPAN], "templated_text": str}),
    ("chat", "/v1/chat/completions", {**ASKED, "max_tokens": 5}, CHAT),
    (
        "chat logprobs",
        "/v1/chat/completions",
        {**ASKED, "max_tokens": 5, "logprobs": True, "top_logprobs": 2},
        {**CHAT, "choices": [{**CHOICE, "logprobs": LOGPROBS}]},
    ),
    ("completion", "/v1/completions", {"prompt": "test", "max_tokens": 5}, COMPLETION),
    ("completions", "/v1/completions", {"prompt": ["test", "more"], "max_tokens": 5}, COMPLETION),
    ("invocations", "/invocations", asking(details=True), [{"generated_text": str, "details": DETAILS}]),
    ("vertex", "/vertex", {"instances": [{"inputs": "test"}]}, {"predictions": [str]}),
    ("error", "/generate", asking(temperature=0), {"error": str, "error_type": str}),
]
# The shape of the first event, and of the last.
STREAMS: list[tuple[str, str, dict[str, Any], Any, Any]] = [
    (
        "generate_stream",
        "/generate_stream",
        asking(),
        STREAM_EVENT,
        {**STREAM_EVENT, "generated_text": str},
    ),
    (
        "stream details",
        "/",
        {**asking(details=True, top_n_tokens=2), "stream": True},
        {**STREAM_EVENT, "top_tokens": [TOKEN]},
        {**STREAM_EVENT, "top_tokens": [TOKEN], "generated_text": str, "details": STREAM_DETAILS},
    ),
    (
        "chat",
        "/v1/chat/completions",
        {**ASKED, "max_tokens": 5, "stream": True},
        CHUNK,
        {**CHUNK, "choices": [{**DELTA, "finish_reason": str}]},
    ),
    (
        "chat logprobs",
        "/v1/chat/completions",
        {**ASKED, "max_tokens": 5, "stream": True, "logprobs": True, "top_logprobs": 2},
        {**CHUNK, "choices": [{**DELTA, "logprobs": LOGPROBS}]},
        {**CHUNK, "choices": [{**DELTA, "logprobs": LOGPROBS, "finish_reason": str}]},
    ),
    (
        "chat usage",
        "/v1/chat/completions",
        {**ASKED, "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}},
        CHUNK,
        {**CHUNK, "choices": [], "usage": USAGE},
    ),
    (
        "completions",
        "/v1/completions",
        {"prompt": "test", "max_tokens": 5, "stream": True},
        TEXT_CHUNK,
        {**TEXT_CHUNK, "usage": USAGE},
    ),
]


@pytest.fixture(scope="module", params=["tgi", "mixed"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    with fake_server(folder, openai_dialect=request.param, enable_prefill_logprobs=True) as running:
        yield running


def assert_shape(value: Any, shape: Any, at: str = "") -> None:
    """``shape``: a type, None, the shapes of an object's values, or those of a list's items, the last for all."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), at
        assert set(value) == set(shape), at
        for key in shape:
            assert_shape(value[key], shape[key], f"{at}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), at
        assert bool(value) == bool(shape), at
        for index, item in enumerate(value):
            assert_shape(item, shape[min(index, len(shape) - 1)], f"{at}[{index}]")
    else:
        assert value is None if shape is None else type(value) is shape, f"{at}: {value!r}"


@pytest.mark.parametrize(("name", "path", "body", "shape"), REPLIES, ids=[row[0] for row in REPLIES])
def test_Y4_replies(name: str, path: str, body: dict[str, Any], shape: Any, server: LiveServer) -> None:
    assert_shape(server.post(path, body).json(), shape)


@pytest.mark.parametrize(("name", "path", "body", "first", "last"), STREAMS, ids=[row[0] for row in STREAMS])
def test_Y4_streams(name: str, path: str, body: dict[str, Any], first: Any, last: Any, server: LiveServer) -> None:
    events = server.post(path, body).text.split("\n\n")
    assert events.pop() == ""
    data = [event.removeprefix("data: ") for event in events]
    assert (data[-1] == "[DONE]") == path.startswith("/v1")
    parsed = [json.loads(each) for each in data if each != "[DONE]"]
    for event in parsed[:-2]:
        assert_shape(event, first)
    assert_shape(parsed[-1], last)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/info", INFO),
        ("/v1/models", {"object": str, "data": [{"id": str, "object": str, "created": int, "owned_by": str}]}),
    ],
)
def test_Y4_what_the_server_says_of_itself(path: str, shape: Any, server: LiveServer) -> None:
    assert_shape(server.http.get(path).json(), shape)


@pytest.mark.parametrize(
    ("value", "shape"),
    [({"a": 1}, {}), ({}, {"a": int}), ({"a": True}, {"a": int}), ([1], []), ([], [int]), (["a"], [int]), (0, None)],
)
def test_shapes_that_differ(value: Any, shape: Any) -> None:
    with pytest.raises(AssertionError):
        assert_shape(value, shape)
