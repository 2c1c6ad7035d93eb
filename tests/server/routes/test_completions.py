"""``/v1/completions``. Names carry the ids of the acceptance list."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from serving import BOS, EOS, Serving, fails, ids_of, outputs, says, until

from segue.core.output import RequestOutput
from segue.core.request import Request
from segue.protocol.openai import Chunk, CompletionFinal

Serve = Callable[..., Serving]
T = TypeVar("T")

PATH = "/v1/completions"


@pytest.fixture
def serve(serve: Serve) -> Serve:
    """TGI to the letter; what the other dialects change is in ``test_openai_dialects.py``."""
    return lambda **given: serve(**{"openai_dialect": "tgi", **given})


def echoes(request: Request) -> Iterator[RequestOutput]:
    """A script: say the prompt again."""
    return outputs(request, [*request.prompt_token_ids[1:], EOS])


async def together(app: Serving, num_requests: int, work: Coroutine[Any, Any, T]) -> T:
    """``work``, whose requests all start to generate in the same turn of the loop."""
    app.engine.gate.clear()
    task = asyncio.ensure_future(work)
    await until(lambda: len(app.engine.requests) == num_requests)
    app.engine.gate.set()
    return await task


async def test_R5_one_prompt(serve: Serve) -> None:
    app = serve(script=says(" world"))
    reply = await app.post(PATH, {"model": "any", "prompt": "hello"})
    body = reply.json()
    assert isinstance(body.pop("created"), int)
    assert body.pop("system_fingerprint").endswith("-native")
    assert body == {
        "object": "text_completion",
        "id": "",
        "model": "test/model",
        "choices": [{"index": 0, "text": " world", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 6, "completion_tokens": 7, "total_tokens": 13},
    }
    CompletionFinal.model_validate_json(reply.content)
    assert app.engine.requests[0].prompt_token_ids == (BOS, *ids_of("hello"))
    assert app.engine.requests[0].sampling.do_sample is True


async def test_R5_P1_several_prompts(serve: Serve) -> None:
    app = serve(script=echoes)
    reply = await app.post(PATH, {"prompt": ["one", "two", "three"], "seed": 3})
    body = reply.json()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "one"), (1, "two"), (2, "three")]
    assert body["usage"] == {"prompt_tokens": 14, "completion_tokens": 14, "total_tokens": 28}
    assert [request.sampling.seed for request in app.engine.requests] == [3, 3, 3]


async def test_P1_too_many_prompts(serve: Serve) -> None:
    for stream in (False, True):
        reply = await serve().post(PATH, {"prompt": ["a"] * 5, "stream": stream})
        error = "Number of prompts exceeds the maximum allowed batch size of 4"
        assert (reply.status_code, reply.json()) == (422, {"error": error, "error_type": "batch size exceeded"})


async def test_P3_a_suffix_is_refused(serve: Serve) -> None:
    reply = await serve().post(PATH, {"prompt": "a", "suffix": ""})
    error = "Suffix is not supported and can be achieved by preprocessing the prompt."
    assert (reply.status_code, reply.json()) == (422, {"error": error, "error_type": "suffix not supported"})
    assert (await serve().post(PATH, {"prompt": "a", "suffix": None})).status_code == 200


async def test_P3_headers_are_summed(serve: Serve) -> None:
    headers = (await serve(script=echoes).post(PATH, {"prompt": ["one", "three"]})).headers
    assert headers["x-compute-characters"] == "8"
    assert headers["x-prompt-tokens"] == "10"
    assert headers["x-generated-tokens"] == "10"
    assert headers["x-compute-type"] == "1-test-cpu"
    assert int(headers["x-total-time"]) >= 0
    assert "x-compute-time" not in headers


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"temperature": 0}, {"do_sample": False, "temperature": 1.0}),
        ({"temperature": 0.3}, {"do_sample": True, "temperature": 0.3}),
        ({"repetition_penalty": 1.5}, {"repetition_penalty": 1.5}),
        ({"frequency_penalty": 1}, {"frequency_penalty": 1.0}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"max_tokens": 3}, {"max_new_tokens": 3}),
        ({"stop": ["x"]}, {"stop": ("x",)}),
    ],
)
async def test_R5_parameters(serve: Serve, given: dict[str, Any], expected: dict[str, Any]) -> None:
    app = serve()
    assert (await app.post(PATH, {"prompt": "a", **given})).status_code == 200
    [request] = app.engine.requests
    assert {name: getattr(request.sampling, name) for name in expected} == expected


async def test_one_prompt_that_fails_fails_the_request(serve: Serve) -> None:
    app = serve(script=lambda request: (fails("boom") if len(request.prompt_token_ids) == 2 else echoes)(request))
    reply = await together(app, 2, app.post(PATH, {"prompt": ["long " * 20, "x"]}))
    assert (reply.status_code, reply.json()["error_type"]) == (424, "generation")
    [running] = [request for request in app.engine.requests if len(request.prompt_token_ids) > 2]
    assert app.engine.aborted == [running.request_id]
    assert await app.metric('tgi_request_failure{err="dropped"}') == 0


async def test_P2_the_stream_byte_for_byte(serve: Serve) -> None:
    reply = await serve(script=says("ab")).post(PATH, {"prompt": "x", "stream": True})
    first = json.loads(reply.text.split("\n\n")[0][6:])
    created, fingerprint = first["created"], first["system_fingerprint"]
    head = f'data: {{"object":"text_completion","id":"","created":{created},'
    names = f'"model":"test/model","system_fingerprint":"{fingerprint}"'
    assert reply.text == (
        f'{head}"choices":[{{"index":0,"text":"a","logprobs":null,"finish_reason":""}}],{names}}}\n\n'
        f'{head}"choices":[{{"index":0,"text":"b","logprobs":null,"finish_reason":""}}],{names}}}\n\n'
        f'{head}{names},"choices":[{{"index":0,"text":"</s>","logprobs":null,"finish_reason":"eos_token"}}],'
        '"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}\n\n'
        "data: [DONE]\n\n"
    )


async def test_P2_streams_of_several_prompts_on_one_connection(serve: Serve) -> None:
    app = serve(script=echoes)
    events = await together(app, 2, app.events(PATH, {"prompt": ["one", "three"], "stream": True}))
    assert events[-1] == "[DONE]"
    assert events.count("[DONE]") == 1
    texts = ["", ""]
    for event in events[:-1]:
        Chunk.model_validate_json(json.dumps(event))
        [choice] = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == ["one</s>", "three</s>"]
    # Interleaved, not one after the other.
    order = [event["choices"][0]["index"] for event in events[:-1]]
    assert order.index(1) < 3


async def test_P2_one_stream_that_fails_leaves_the_others(serve: Serve) -> None:
    app = serve(script=lambda request: (fails("boom") if len(request.prompt_token_ids) == 2 else echoes)(request))
    events = await app.events(PATH, {"prompt": ["x", "fine"], "stream": True})
    message = "Request failed during generation: boom"
    assert {"error": {"message": message, "http_status_code": 422}} in events
    assert events[-2]["choices"][0]["finish_reason"] == "eos_token"
    assert events[-1] == "[DONE]"


async def test_Q1_each_prompt_takes_a_permit(serve: Serve) -> None:
    app = serve(max_concurrent_requests=1)
    assert (await app.post(PATH, {"prompt": ["a", "b"]})).status_code == 429
    assert (await app.post(PATH, {"prompt": ["a"]})).status_code == 200
