"""``/v1/chat/completions`` and ``/chat_tokenize``. Names carry the ids of the acceptance list."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from serving import EOS, Serving, fails, ids_of, says

from segue.protocol.openai import ChatCompletion, ChatCompletionChunk, ChatTokenizeResponse

Serve = Callable[..., Serving]

PATH = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """TGI to the letter; what the other dialects change is in ``test_openai_dialects.py``."""
    return lambda **given: serve(**{"openai_dialect": "tgi", **given})


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": USER, **fields}


async def prompt_of(app: Serving, messages: Any) -> str:
    reply = await app.post("/chat_tokenize", {"messages": messages})
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["templated_text"]
    return text


async def test_R4_C8_the_reply(serve: Serve) -> None:
    app = serve(script=says("Hello!"))
    reply = await app.post(PATH, chat(model="gpt-4"))
    body = reply.json()
    assert isinstance(body.pop("created"), int)
    fingerprint = body.pop("system_fingerprint")
    assert fingerprint.endswith("-native")
    assert body == {
        "object": "chat.completion",
        "id": "",
        "model": "gpt-4",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 19, "completion_tokens": 7, "total_tokens": 26},
    }
    ChatCompletion.model_validate_json(reply.content)
    assert reply.headers["x-prompt-tokens"] == "19"
    assert reply.headers["x-compute-characters"] == "19"
    assert app.engine.requests[0].prompt_token_ids == tuple(ids_of("<user>hi<assistant>"))


@pytest.mark.parametrize(
    ("given", "echoed"), [({}, "test/model"), ({"model": "tgi"}, "test/model"), ({"model": "x"}, "x")]
)
async def test_C8_the_model_is_echoed(serve: Serve, given: dict[str, str], echoed: str) -> None:
    app = serve()
    assert (await app.post(PATH, chat(**given))).json()["model"] == echoed
    assert (await app.events(PATH, chat(**given, stream=True)))[0]["model"] == echoed


async def test_C1_messages_as_chunks_and_as_calls(serve: Serve) -> None:
    app = serve()
    chunks = [
        {"type": "text", "text": "look: "},
        {"type": "image_url", "image_url": {"url": "http://x/a.png"}},
        {"type": "text", "text": "!"},
    ]
    assert await prompt_of(app, [{"role": "user", "content": chunks}]) == "<user>look: ![](http://x/a.png)!<assistant>"
    call = {"id": "0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages = [*USER, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "4"}]
    assert '"name":"f"' in await prompt_of(app, messages)


async def test_C4_the_assistants_last_message_is_continued(serve: Serve) -> None:
    messages = [*USER, {"role": "assistant", "content": "I think "}]
    assert await prompt_of(serve(), messages) == "<user>hi<assistant>I think"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"do_sample": True, "temperature": 1.0}),
        ({"temperature": 0}, {"do_sample": False, "temperature": 1.0}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"presence_penalty": 0}, {"repetition_penalty": 2.0}),
        ({"presence_penalty": -0.5}, {"repetition_penalty": 1.5}),
        ({"frequency_penalty": 0.25}, {"frequency_penalty": 0.25}),
        ({"seed": 5}, {"seed": 5}),
        ({"stop": ["x"]}, {"stop": ("x",)}),
        ({"stop": None}, {"stop": ()}),
        ({"max_tokens": 3}, {"max_new_tokens": 3}),
        ({"max_completion_tokens": 4}, {"max_new_tokens": 4}),
        ({"top_logprobs": 2}, {"top_n_tokens": 2}),
    ],
)
async def test_C5_openais_parameters(serve: Serve, given: dict[str, Any], expected: dict[str, Any]) -> None:
    app = serve()
    assert (await app.post(PATH, chat(**given))).status_code == 200
    [request] = app.engine.requests
    assert {name: getattr(request.sampling, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"presence_penalty": -2}, "`repetition_penalty` must be strictly positive"),
        ({"top_p": 1.1}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_logprobs": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"max_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"response_format": {"type": "json", "value": 5}}, "grammar is not supported"),
        ({"n": 0}, "`n` must be > 0 and <= 128. Given: 0"),
        ({"n": 2**32 - 1}, "`n` must be > 0 and <= 128. Given: 4294967295"),
        ({"logit_bias": [1.0]}, "`logit_bias` must map token ids to numbers; a list is not supported"),
        ({"logit_bias": {"258": 1}}, "`logit_bias` must map token ids below 258 to numbers from -100.0 to 100.0"),
        ({"logit_bias": {"-1": 1}}, "`logit_bias` must map token ids below 258 to numbers from -100.0 to 100.0"),
        ({"logit_bias": {"9" * 5000: 1}}, "`logit_bias` must map token ids below 258 to numbers from -100.0 to 100.0"),
        ({"logit_bias": {"1": 101}}, "`logit_bias` must map token ids below 258 to numbers from -100.0 to 100.0"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "`logit_bias` supports up to 1024 tokens"),
    ],
)
async def test_C5_values_that_are_refused(serve: Serve, given: dict[str, Any], text: str) -> None:
    app = serve()
    reply = await app.post(PATH, chat(**given))
    assert (reply.status_code, reply.json()) == (
        422,
        {"error": f"Input validation error: {text}", "error_type": "validation"},
    )
    assert app.engine.requests == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({}, "stop"), ({"max_tokens": 2}, "length"), ({"stop": ["el"]}, "stop_sequence")],
)
async def test_C6_finish_reasons(serve: Serve, fields: dict[str, Any], reason: str) -> None:
    app = serve()
    assert (await app.post(PATH, chat(**fields))).json()["choices"][0]["finish_reason"] == reason
    chunks = await app.events(PATH, chat(**fields, stream=True))
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + [reason]


async def test_C7_logprobs(serve: Serve) -> None:
    app = serve(script=says("a"))
    body = chat(logprobs=True, top_logprobs=2)
    expected = [
        {"token": "a", "logprob": -0.5, "top_logprobs": [("a", -0.5), ("b", -1.5)]},
        {"token": "</s>", "logprob": -0.5, "top_logprobs": [("</s>", -0.5), ("!", -1.5)]},
    ]
    for each in expected:
        each["top_logprobs"] = [{"token": token, "logprob": logprob} for token, logprob in each["top_logprobs"]]  # type: ignore[misc]
    assert (await app.post(PATH, body)).json()["choices"][0]["logprobs"] == {"content": expected}
    chunks = await app.events(PATH, {**body, "stream": True})
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks[:-1]] == [{"content": [each]} for each in expected]


async def test_C7_no_logprobs_unless_asked_for(serve: Serve) -> None:
    app = serve()
    assert (await app.post(PATH, chat(top_logprobs=2))).json()["choices"][0]["logprobs"] is None
    bare = (await app.post(PATH, chat(logprobs=True))).json()["choices"][0]["logprobs"]["content"][0]
    assert bare["top_logprobs"] == []


async def test_C9_the_stream_byte_for_byte(serve: Serve) -> None:
    reply = await serve(script=says("a\n")).post(PATH, chat(stream=True, model="m"))
    created = json.loads(reply.text.split("\n\n")[0][6:])["created"]
    fingerprint = json.loads(reply.text.split("\n\n")[0][6:])["system_fingerprint"]
    head = (
        f'data: {{"object":"chat.completion.chunk","id":"","created":{created},"model":"m",'
        f'"system_fingerprint":"{fingerprint}","choices":[{{"index":0,"delta":{{"role":"assistant","content":'
    )
    assert reply.text == (
        head
        + '"a"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        + head
        + '"\\n"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        + head
        + '""},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
        + "data: [DONE]\n\n"
    )
    assert reply.headers["content-type"] == "text/event-stream"


async def test_C9_usage_in_a_last_chunk_without_choices(serve: Serve) -> None:
    chunks = await serve(script=says("a")).events(PATH, chat(stream=True, stream_options={"include_usage": True}))
    *tokens, usage, done = chunks
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 19, "completion_tokens": 2, "total_tokens": 21}
    assert [chunk["usage"] for chunk in tokens] == [None, None]
    for chunk in chunks[:-1]:
        ChatCompletionChunk.model_validate_json(json.dumps(chunk))


@pytest.mark.parametrize(
    ("fields", "script", "message"),
    [
        ({"temperature": -1}, None, "Input validation error: `temperature` must be strictly positive"),
        ({}, fails("Server error: boom"), "Request failed during generation: Server error: boom"),
    ],
)
async def test_C10_errors_in_the_stream(serve: Serve, fields: dict[str, Any], script: Any, message: str) -> None:
    reply = await serve(script=script).post(PATH, chat(stream=True, **fields))
    assert reply.status_code == 200
    assert reply.text == (f'data: {{"error":{{"message":"{message}","http_status_code":422}}}}\n\ndata: [DONE]\n\n')


async def test_C10_overload_in_the_stream_is_called_422_too(serve: Serve) -> None:
    events = await serve(max_concurrent_requests=0).events(PATH, chat(stream=True))
    assert events == [{"error": {"message": "Model is overloaded", "http_status_code": 422}}, "[DONE]"]
    assert (await serve(max_concurrent_requests=0).post(PATH, chat())).status_code == 429


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("options", "fields", "error", "error_type"),
    [
        ({"chat_template": None}, {}, "Template error: template not found", "template_error"),
        (
            {},
            {"messages": [{"role": "bad", "content": ""}]},
            "Template error: syntax error: no such role (in <string>:1)",
            "template_error",
        ),
        (
            {},
            {"tools": [], "response_format": {"type": "regex", "value": "a"}},
            "Tool error: Grammar and tools are mutually exclusive",
            "tool_error",
        ),
        (
            {},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "g"},
            "Tool error: Tool with name g not found",
            "tool_error",
        ),
    ],
)
async def test_C17_H5_errors_before_the_stream_have_their_status(
    serve: Serve, stream: bool, options: dict[str, Any], fields: dict[str, Any], error: str, error_type: str
) -> None:
    app = serve(**options)
    reply = await app.post(PATH, chat(stream=stream) | fields)
    assert (reply.status_code, reply.json()) == (422, {"error": error, "error_type": error_type})
    assert app.engine.requests == []


async def test_C11_tools_that_may_not_be_called_change_nothing(serve: Serve) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    app = serve()
    assert (await app.post(PATH, chat(tools=[tool], tool_choice="none"))).status_code == 200
    assert (await app.post(PATH, chat(tools=[]))).status_code == 200
    with_tools, without = (request.prompt_token_ids for request in app.engine.requests)
    assert with_tools == without


async def test_R6_chat_tokenize(serve: Serve) -> None:
    reply = await serve().post("/chat_tokenize", chat())
    body = reply.json()
    assert list(body) == ["tokenize_response", "templated_text"]
    assert body["templated_text"] == "<user>hi<assistant>"
    assert [token["id"] for token in body["tokenize_response"]] == ids_of("<user>hi<assistant>")
    assert body["tokenize_response"][6] == {"id": ids_of("h")[0], "text": "h", "start": 6, "stop": 7}
    ChatTokenizeResponse.model_validate_json(reply.content)


async def test_special_tokens_are_no_text_in_the_stream(serve: Serve) -> None:
    chunks = await serve(script=says("ab")).events(PATH, chat(stream=True))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1]] == ["a", "b", ""]
    assert EOS == 1
