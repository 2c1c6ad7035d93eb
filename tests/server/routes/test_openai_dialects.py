"""What OpenAI's routes do beyond TGI's. ``test_chat.py`` and ``test_completions.py`` hold ``--openai-dialect tgi``."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from serving import BOS, EOS, Serving, fails, ids_of, outputs, says

from segue.core.output import RequestOutput
from segue.core.request import Request

Serve = Callable[..., Serving]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
PATHS = (CHAT, COMPLETIONS)


def body(path: str, **fields: Any) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    return prompt | fields


def by_seed(request: Request) -> Iterator[RequestOutput]:
    """A script: say the seed."""
    return outputs(request, [*ids_of(str(request.sampling.seed)), EOS])


def text_of(choice: dict[str, Any]) -> str:
    text: str = choice["message"]["content"] if "message" in choice else choice["text"]
    return text


@pytest.mark.parametrize("path", PATHS)
async def test_P4_n_choices_of_their_own_seeds(serve: Serve, path: str) -> None:
    app = serve(script=by_seed)
    reply = (await app.post(path, body(path, n=3, seed=7))).json()
    assert [(each["index"], text_of(each)) for each in reply["choices"]] == [(0, "7"), (1, "8"), (2, "9")]
    num_prompt = len(app.engine.requests[0].prompt_token_ids)
    assert reply["usage"] == {"prompt_tokens": num_prompt, "completion_tokens": 6, "total_tokens": num_prompt + 6}


async def test_P4_n_of_several_prompts(serve: Serve) -> None:
    app = serve(script=by_seed)
    reply = (await app.post(COMPLETIONS, {"prompt": ["a", "bc"], "n": 2, "seed": 1})).json()
    assert [(each["index"], each["text"]) for each in reply["choices"]] == [(0, "1"), (1, "2"), (2, "1"), (3, "2")]
    assert reply["usage"]["prompt_tokens"] == 5


@pytest.mark.parametrize("path", PATHS)
async def test_P4_n_choices_in_a_stream(serve: Serve, path: str) -> None:
    app = serve(script=by_seed)
    fields = {"n": 3, "seed": 7, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = await app.events(path, body(path, **fields))
    assert done == "[DONE]"
    texts = {0: "", 1: "", 2: ""}
    for chunk in chunks:
        assert chunk.get("usage") is None
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["delta"]["content"] if path == CHAT else choice["text"].removesuffix("</s>")
    assert texts == {0: "7", 1: "8", 2: "9"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6
    assert usage["usage"]["prompt_tokens"] == len(app.engine.requests[0].prompt_token_ids)
    assert len({chunk["id"] for chunk in (*chunks, usage)}) == 1


@pytest.mark.parametrize("path", PATHS)
async def test_Q1_each_choice_takes_a_permit(serve: Serve, path: str) -> None:
    app = serve(max_concurrent_requests=2)
    assert (await app.post(path, body(path, n=3))).status_code == 422
    app.engine.gate.clear()
    running = asyncio.ensure_future(app.post(path, body(path, n=1)))
    while not app.engine.requests:  # noqa: ASYNC110
        await asyncio.sleep(0)
    reply = await app.post(path, body(path, n=2))
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    app.engine.gate.set()
    assert (await running).status_code == 200
    assert (await app.post(path, body(path, n=2))).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"top_p": 1}, {"top_p": 1.0, "do_sample": True}),
        ({"temperature": 0}, {"do_sample": False, "temperature": 1.0}),
        ({"temperature": 1e-320}, {"do_sample": False, "temperature": 1.0}),
        ({"temperature": 0, "top_p": 1}, {"do_sample": False, "top_p": 1.0}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["x", "y", "x", "y", "x"]}, {"stop": ("x", "y")}),
        ({"presence_penalty": -2}, {"presence_penalty": -2.0, "repetition_penalty": 1.0}),
        ({"logit_bias": {"5": -100, "05": 1, "6": 1.5}}, {"logit_bias": ((5, 1.0), (6, 1.5))}),
        ({"logit_bias": [0.0]}, {"logit_bias": ()}),
        ({"logit_bias": {}}, {"logit_bias": ()}),
        ({"n": None, "stream_options": None}, {}),
    ],
)
async def test_C5_parameters(serve: Serve, path: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    app = serve()
    assert (await app.post(path, body(path, **given))).status_code == 200
    [request] = app.engine.requests
    assert {name: getattr(request.sampling, name) for name in expected} == expected


@pytest.mark.parametrize(("dialect", "has_id"), [("mixed", True), ("openai", True), ("tgi", False)])
async def test_C8_ids(serve: Serve, dialect: str, has_id: bool) -> None:
    app = serve(openai_dialect=dialect)
    for path, prefix in ((CHAT, "chatcmpl-"), (COMPLETIONS, "cmpl-")):
        first, second = [(await app.post(path, body(path))).json()["id"] for _ in range(2)]
        streamed = (await app.events(path, body(path, stream=True)))[0]["id"]
        if has_id:
            assert all(each.startswith(prefix) and len(each) > 20 for each in (first, second, streamed))
            assert len({first, second, streamed}) == 3
        else:
            assert {first, second, streamed} == {""}


@pytest.mark.parametrize(("dialect", "reason"), [("mixed", "stop_sequence"), ("openai", "stop")])
@pytest.mark.parametrize("path", PATHS)
async def test_C6_finish_reason_of_a_stop_string(serve: Serve, path: str, dialect: str, reason: str) -> None:
    app = serve(openai_dialect=dialect)
    reply = (await app.post(path, body(path, stop="el"))).json()
    assert reply["choices"][0]["finish_reason"] == reason
    chunks = await app.events(path, body(path, stop="el", stream=True))
    assert chunks[-2]["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(
    ("dialect", "reasons", "text"),
    [("mixed", ["", "", "eos_token"], "ab</s>"), ("openai", [None, None, "stop"], "ab")],
)
async def test_P2_finish_reasons_of_a_streamed_completion(
    serve: Serve, dialect: str, reasons: list[Any], text: str
) -> None:
    app = serve(openai_dialect=dialect, script=says("ab"))
    chunks = [each["choices"][0] for each in (await app.events(COMPLETIONS, {"prompt": "a", "stream": True}))[:-1]]
    assert [chunk["finish_reason"] for chunk in chunks] == reasons
    assert "".join(chunk["text"] for chunk in chunks) == text


@pytest.mark.parametrize("dialect", ["mixed", "openai"])
async def test_H5_an_error_has_openais_shape_and_tgis_type(serve: Serve, dialect: str) -> None:
    app = serve(openai_dialect=dialect, max_concurrent_requests=1)
    text = "Input validation error: `max_new_tokens` must be strictly positive"
    shape = {"message": text, "type": "invalid_request_error", "param": None, "code": "validation"}
    for path in PATHS:
        reply = await app.post(path, body(path, max_tokens=0))
        assert (reply.status_code, reply.json()) == (422, {"error": shape, "error_type": "validation"})
        [event, _] = await app.events(path, body(path, max_tokens=0, stream=True))
        assert event == {"error": shape | {"http_status_code": 422}}
    failing = serve(openai_dialect=dialect, script=fails("boom"))
    error = (await failing.post(CHAT, body(CHAT))).json()
    assert (error["error_type"], error["error"]["code"]) == ("generation", "generation")
    native = (await app.post("/generate", {"inputs": ""})).json()
    assert native == {"error": "Input validation error: `inputs` cannot be empty", "error_type": "validation"}


@pytest.mark.parametrize("path", PATHS)
async def test_H4_bodies_that_cannot_be_read(serve: Serve, path: str) -> None:
    headers = {"content-type": "application/json"}
    reply = await serve().http.post(path, content=b"{", headers=headers)
    assert (reply.status_code, reply.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    reply = await serve(openai_dialect="openai").http.post(path, content=b"{", headers=headers)
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_P4_prompts_of_token_ids(serve: Serve) -> None:
    app = serve()
    assert (await app.post(COMPLETIONS, {"prompt": [5, 6, 7]})).status_code == 200
    assert (await app.post(COMPLETIONS, {"prompt": [[5], [6, 7]]})).status_code == 200
    assert [each.prompt_token_ids for each in app.engine.requests] == [(5, 6, 7), (5,), (6, 7)]
    for prompt, text in (
        ([258], "token ids of a prompt must be below 258. Given: 258"),
        ([[]], "`inputs` cannot be empty"),
    ):
        for echo in (False, True):
            reply = await app.post(COMPLETIONS, {"prompt": prompt, "echo": echo})
            assert (reply.status_code, reply.json()["error"]["message"]) == (422, f"Input validation error: {text}")
    assert (await app.post(COMPLETIONS, {"prompt": [[1]] * 5})).json()["error_type"] == "batch size exceeded"


@pytest.mark.parametrize("prompt", ["hi", ids_of("hi")])
async def test_P4_echo(serve: Serve, prompt: Any) -> None:
    app = serve(script=says(" you"), openai_dialect="openai")
    reply = (await app.post(COMPLETIONS, {"prompt": prompt, "echo": True})).json()
    assert reply["choices"][0]["text"] == "hi you"
    events = await app.events(COMPLETIONS, {"prompt": prompt, "echo": True, "stream": True})
    assert "".join(each["choices"][0]["text"] for each in events[:-1]) == "hi you"
    for stream in (False, True):
        fields = {"prompt": prompt, "echo": True, "max_tokens": 0, "stream": stream}
        text = (await app.post(COMPLETIONS, fields)).text
        assert '"text":"hi"' in text
        assert '"finish_reason":"length"' in text
    reply = await app.post(COMPLETIONS, {"prompt": prompt, "max_tokens": 0})
    assert reply.status_code == 422


async def test_P4_logprobs(serve: Serve) -> None:
    app = serve(script=says("ab"))
    expected = {
        "tokens": ["a", "b", "</s>"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"a": -0.5, "b": -1.5}, {"b": -0.5, "c": -1.5}, {"</s>": -0.5, "!": -1.5}],
        "text_offset": [0, 1, 2],
    }
    reply = (await app.post(COMPLETIONS, {"prompt": "x", "logprobs": 2})).json()
    assert reply["choices"][0]["logprobs"] == expected
    events = await app.events(COMPLETIONS, {"prompt": "x", "logprobs": 2, "stream": True})
    parts = [each["choices"][0]["logprobs"] for each in events[:-1]]
    assert {name: [each for part in parts for each in part[name]] for name in expected} == expected
    bare = (await app.post(COMPLETIONS, {"prompt": "x", "logprobs": 0})).json()["choices"][0]["logprobs"]
    assert bare == expected | {"top_logprobs": None}
    assert (await app.post(COMPLETIONS, {"prompt": "x", "logprobs": 6})).status_code == 422


async def test_P4_logprobs_of_an_echoed_prompt(serve: Serve) -> None:
    fields = {"prompt": "hi", "logprobs": 1, "echo": True, "max_tokens": 1}
    app = serve(script=says("a"), enable_prefill_logprobs=True)
    [choice] = (await app.post(COMPLETIONS, fields)).json()["choices"]
    assert choice["logprobs"] == {
        "tokens": ["<s>", "h", "i", "a"],
        "token_logprobs": [None, -1.0, -1.0, -0.5],
        "top_logprobs": [None, None, None, {"a": -0.5}],
        "text_offset": [0, 0, 1, 2],
    }
    assert app.engine.requests[0].prompt_token_ids[0] == BOS
    [scored] = (await app.post(COMPLETIONS, fields | {"max_tokens": 0})).json()["choices"]
    assert scored["logprobs"]["tokens"] == ["<s>", "h", "i"]
    reply = await serve().post(COMPLETIONS, fields)
    assert "--enable-prefill-logprobs" in reply.json()["error"]["message"]


async def test_P4_usage_in_its_own_chunk_only_if_asked_for(serve: Serve) -> None:
    app = serve(script=says("a"))
    request = {"prompt": ["x", "yz"], "stream": True}
    with_usage = [each for each in (await app.events(COMPLETIONS, request))[:-1] if each.get("usage")]
    assert sorted(each["usage"]["prompt_tokens"] for each in with_usage) == [2, 3]
    events = await app.events(COMPLETIONS, request | {"stream_options": {"include_usage": True}})
    [total] = [each for each in events[:-1] if each.get("usage")]
    assert total is events[-2]
    assert (total["choices"], total["usage"]) == (
        [],
        {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    )


@pytest.mark.parametrize(
    ("path", "fields"), [("/v1/responses", {"input": "a"}), ("/v1/messages", {"messages": [], "max_tokens": 1})]
)
async def test_M1_refused_conversations_are_counted(serve: Serve, path: str, fields: dict[str, Any]) -> None:
    app = serve(chat_template=None)
    assert (await app.post(path, fields)).json()["error_type"] == "template_error"
    assert await app.metric('tgi_request_failure{err="template"}') == 1
