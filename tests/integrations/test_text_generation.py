"""The old package's methods against a live server, blocking and not."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from client.tgi_server import (
    Reply,
    Seen,
    TgiServer,
    error_reply,
    events,
    generated,
    json_reply,
    sse,
    stream_reply,
    text,
    tgi,
)

from segue.client import APIConnectionError, APIStatusError, APITimeoutError
from segue.integrations import text_generation
from segue.integrations.text_generation import AsyncClient, Client, errors
from segue.integrations.text_generation.types import ChatRequest, FinishReason, Message, Parameters, Request


def compat(seen: Seen) -> Reply:
    """``POST /`` of a TGI: a list, or a stream if asked for."""
    if seen.path != "/":
        return tgi(seen)
    if seen.body.get("stream"):
        return stream_reply(sse(events(seen.body["inputs"], seen.parameters)))
    return json_reply([generated(seen.body["inputs"], seen.parameters)])


@pytest.fixture
def server() -> Iterator[TgiServer]:
    with TgiServer(compat) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Calls a method of either client; streams come as lists."""

    def run(url: str, method: str, *args: Any, settings: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if request.param == "sync":
            with Client(url, **(settings or {})) as client:
                answer = getattr(client, method)(*args, **kwargs)
                return list(answer) if inspect.isgenerator(answer) else answer

        async def finish() -> Any:
            answer = getattr(AsyncClient(url, **(settings or {})), method)(*args, **kwargs)
            if inspect.isawaitable(answer):
                answer = await answer
            return [event async for event in answer] if inspect.isasyncgen(answer) else answer

        return asyncio.run(finish())

    return run


def test_generate(server: TgiServer, call: Callable[..., Any]) -> None:
    response = call(server.url, "generate", "hi", max_new_tokens=2, stop_sequences=["end"], frequency_penalty=-1.0)
    assert response.generated_text == text(2)
    assert response.details.finish_reason is FinishReason.Length
    assert [token.id for token in response.details.tokens] == [0, 1]
    [seen] = server.posts
    assert seen.path == "/"
    assert seen.body == {
        "inputs": "hi",
        "parameters": {
            "do_sample": False,
            "max_new_tokens": 2,
            "frequency_penalty": -1.0,
            "return_full_text": False,
            "stop": ["end"],
            "watermark": False,
            "details": True,
            "decoder_input_details": False,
        },
        "stream": False,
    }


def test_best_of(server: TgiServer, call: Callable[..., Any]) -> None:
    response = call(server.url, "generate", "hi", best_of=2, do_sample=True)
    assert [sequence.generated_text for sequence in response.details.best_of_sequences] == [" other 1"]


def test_generate_stream(server: TgiServer, call: Callable[..., Any]) -> None:
    received = call(server.url, "generate_stream", "hi", max_new_tokens=4)
    assert "".join(event.token.text for event in received) == received[-1].generated_text == text(4)
    assert received[-1].details.generated_tokens == 4
    assert server.posts[0].body["stream"] is True


def test_chat(server: TgiServer, call: Callable[..., Any]) -> None:
    answer = call(server.url, "chat", [Message(role="user", content="hi")], max_tokens=2)
    assert answer.choices[0].message.content == text(2)
    assert answer.usage["completion_tokens"] == 2
    assert server.posts[0].body == {
        "model": "tgi",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "max_tokens": 2,
    }


def test_chat_streams(server: TgiServer, call: Callable[..., Any]) -> None:
    """0.7.0 demanded tool_calls in every delta, and parsed [DONE] as JSON."""
    chunks = call(server.url, "chat", [{"role": "user", "content": "hi"}], stream=True, max_tokens=2)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == text(2)


def test_headers_cookies(server: TgiServer, call: Callable[..., Any]) -> None:
    settings = {"headers": {"Authorization": "Bearer k"}, "cookies": {"a": "1", "b": "2"}}
    call(server.url, "generate", "hi", settings=settings)
    assert server.posts[0].key == "k"
    assert server.posts[0].headers["cookie"] == "a=1; b=2"


def test_headers_may_be_changed_later(server: TgiServer) -> None:
    with Client(server.url) as client:
        client.headers["X-Late"] = "yes"
        client.generate("hi")
    assert server.posts[0].headers["x-late"] == "yes"


@pytest.mark.parametrize("method", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error_reply(422, "validation", "too long"), errors.ValidationError),
        (error_reply(424, "generation", "too long"), errors.GenerationError),
        (error_reply(429, "overloaded", "too long"), errors.OverloadedError),
        (error_reply(500, "incomplete_generation", "too long"), errors.IncompleteGenerationError),
        (error_reply(400, "x", "too long"), errors.BadRequestError),
        (error_reply(403, "x", "too long"), errors.ShardNotReadyError),
        (error_reply(404, "x", "too long"), errors.NotFoundError),
        (error_reply(429, "x", "too long"), errors.RateLimitExceededError),
        (error_reply(504, "x", "too long"), errors.ShardTimeoutError),
        (error_reply(418, "x", "too long"), errors.UnknownError),
        (Reply(502, (b"too long <html>",)), errors.UnknownError),
    ],
)
def test_errors(server: TgiServer, call: Callable[..., Any], method: str, reply: Reply, kind: type[Exception]) -> None:
    server.replies.append(reply)
    with pytest.raises(kind, match="too long") as caught:
        call(server.url, method, "hi", settings={"max_retries": 0})
    assert isinstance(caught.value.__cause__, APIStatusError)
    assert caught.value.__cause__.status_code == reply.status


def test_errors_inside_a_stream(server: TgiServer, call: Callable[..., Any]) -> None:
    server.replies.append(stream_reply(sse([{"error": "too long", "error_type": "validation"}])))
    with pytest.raises(errors.ValidationError, match="too long"):
        call(server.url, "generate_stream", "hi")


def test_a_cut_stream(server: TgiServer, call: Callable[..., Any]) -> None:
    server.replies.append(stream_reply(sse(events("x", {}))[:1], cut=True))
    with pytest.raises(errors.IncompleteGenerationError):
        call(server.url, "generate_stream", "hi")


@pytest.mark.parametrize("body", [[], {}, [{"generated_text": "no details"}], "text"])
def test_answers_that_are_none(server: TgiServer, call: Callable[..., Any], body: Any) -> None:
    server.replies.append(json_reply(body))
    with pytest.raises(errors.UnknownError):
        call(server.url, "generate", "hi")


def test_faults_of_the_server_are_retried(server: TgiServer, call: Callable[..., Any]) -> None:
    server.replies.append(error_reply(429, "overloaded", retry_after="0.05"))
    assert call(server.url, "generate", "hi").generated_text != ""
    assert len(server.posts) == 2


def test_no_answer_at_all(server: TgiServer, call: Callable[..., Any]) -> None:
    with server.held(), pytest.raises(APITimeoutError):
        call(server.url, "generate", "hi", settings={"timeout": 0.1, "max_retries": 0})
    server.stop()
    with pytest.raises(APIConnectionError):
        call(server.url, "generate", "hi", settings={"max_retries": 0})


def test_an_async_client_outlives_its_loop(server: TgiServer) -> None:
    client = AsyncClient(server.url)
    for _ in range(2):
        assert asyncio.run(client.generate("hi")).generated_text != ""


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 0}, "`best_of` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"temperature": -1.0}, "`temperature` must be strictly positive"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"truncate": 0}, "`truncate` must be strictly positive"),
        ({"top_n_tokens": 0}, "`top_n_tokens` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"seed": -1}, "`seed` must be positive"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` is > 1"),
        ({"grammar": {"type": "regex", "value": ""}}, "`value` cannot be empty for `grammar`"),
    ],
)
def test_what_the_server_would_refuse_is_not_sent(
    server: TgiServer, call: Callable[..., Any], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.ValidationError, match=message.replace("(", r"\(")):
        call(server.url, "generate", "hi", **parameters)
    assert server.posts == []


def test_other_requests_that_are_not_sent(server: TgiServer, call: Callable[..., Any]) -> None:
    with pytest.raises(errors.ValidationError, match="`inputs` cannot be empty"):
        call(server.url, "generate", "")
    with pytest.raises(errors.ValidationError, match="`best_of` != 1 is not supported when streaming"):
        call(server.url, "generate_stream", "hi", best_of=2, do_sample=True)
    for method, argument in (("generate", "hi"), ("chat", [])):
        with pytest.raises(TypeError, match="unknown argument 'no_such'"):
            call(server.url, method, argument, no_such=1)
    assert server.posts == []


def test_sampling_parameters_that_allow_best_of() -> None:
    for sampling in ({"do_sample": True}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"typical_p": 0.5}):
        Parameters(best_of=2, **sampling)  # type: ignore[arg-type]
    Request(inputs="x", parameters=Parameters(best_of=1), stream=True)
    assert ChatRequest(messages=[]).model == "tgi"


def test_parse_error_and_names() -> None:
    assert isinstance(errors.parse_error(500, {"error": "e", "error_type": "generation"}), errors.GenerationError)
    assert str(errors.parse_error(500, {"no": "error"})) == "{'no': 'error'}"
    assert "`m`" in str(errors.NotSupportedError("m"))
    hosted = text_generation.InferenceAPIClient("org/m", token="t")
    assert hosted.base_url == "https://api-inference.huggingface.co/models/org/m"
    assert hosted.headers == {"Authorization": "Bearer t"}
    assert text_generation.InferenceAPIAsyncClient("org/m").headers == {}
