"""What the methods send, and what they make of the answers. Both clients, one server."""

import asyncio
import json
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
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

from segue.client import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    Client,
    Endpoint,
    EndpointPool,
    IncompleteStreamError,
    InvalidResponseError,
    NotFoundError,
    RetryPolicy,
    TGIError,
    ValidationError,
)
from segue.client._flow import Send, Sleep
from segue.client.limiter import ThreadSignal
from segue.client.types import Token, ToolCall

MakeClient = Callable[..., Any]


# generate


def test_generate_sends_what_was_set_and_nothing_else(server: TgiServer, make_client: MakeClient) -> None:
    make_client(server.url).generate("hi", max_new_tokens=2, temperature=None, stop="end", seed=3, details=False)
    [seen] = server.posts
    assert seen.body == {
        "inputs": "hi",
        "parameters": {"max_new_tokens": 2, "stop": ["end"], "seed": 3, "details": False},
    }
    assert seen.headers["content-type"] == "application/json"
    assert "authorization" not in seen.headers


def test_generate_always_sends_parameters(server: TgiServer, make_client: MakeClient) -> None:
    """TGI samples where they are missing altogether, and is greedy where they are empty."""
    make_client(server.url).generate("hi")
    assert server.posts[0].body["parameters"] == {"details": True}


def test_generate_result(server: TgiServer, make_client: MakeClient) -> None:
    result = make_client(server.url).generate("hi", max_new_tokens=2, best_of=2, do_sample=True)
    assert str(result) == result.generated_text == text(2)
    assert result.finish_reason == "length"
    assert result.details.tokens[1] == Token(1, " twö", -0.5, False)
    assert [sequence.generated_text for sequence in result.details.best_of_sequences] == [" other 1"]
    assert result.response.status == 200
    assert result.response.headers["X-Prompt-Tokens"] == "1"
    assert result.response.elapsed > 0


def test_stream_events_and_final(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    received = list(client.generate("hi", stream=True))
    assert [event.index for event in received] == [1, 2, 3]
    assert [event.generated_text for event in received] == [None, None, text(3)]
    whole = client.generate("hi", stream=True).final()
    once = client.generate("hi")
    assert whole.generated_text == once.generated_text
    assert whole.details.tokens == once.details.tokens
    assert whole.usage == once.usage


def test_special_tokens_add_no_text(server: TgiServer, make_client: MakeClient) -> None:
    made = events("x", {})
    made[-1]["token"] = {"id": 2, "text": "</s>", "logprob": -1.0, "special": True}
    made[-1]["generated_text"] = text(2)
    server.replies.append(stream_reply(sse(made)))
    stream = make_client(server.url).generate("x", stream=True)
    assert "".join(stream.text_deltas()) == text(2)


def test_a_stream_is_lazy_after_its_first_event(server: TgiServer, make_client: MakeClient) -> None:
    gate = threading.Event()
    server.replies.append(stream_reply(sse(events("x", {})), hold=gate, hold_after=1))
    stream = make_client(server.url).generate("x", stream=True)
    assert not gate.is_set()
    gate.set()
    assert stream.final().generated_text == text(3)


def test_final_of_a_closed_stream(server: TgiServer, make_client: MakeClient) -> None:
    stream = make_client(server.url).generate("x", stream=True)
    stream.close()
    with pytest.raises(IncompleteStreamError, match="the stream was closed"):
        stream.final()


def test_unknown_arguments_are_refused(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    with pytest.raises(TypeError, match="unknown argument 'max_tokens'; did you mean 'max_new_tokens'"):
        client.generate("x", max_tokens=3)
    with pytest.raises(TypeError, match="unknown argument 'zzz'; parameters of one server only go into extra_body"):
        client.chat("x", zzz=3)
    assert server.posts == []


def test_extra_body_and_headers(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url, api_key="k", headers={"X-Team": "a", "x-both": "client"})
    extra = {"parameters": {"min_p": 0.1}, "tenant": "t"}
    client.generate("x", top_k=3, extra_body=extra, extra_headers={"x-both": "call", "AUTHORIZATION": "Basic b"})
    [seen] = server.posts
    assert seen.body == {"inputs": "x", "parameters": {"top_k": 3, "details": True, "min_p": 0.1}, "tenant": "t"}
    assert seen.headers["x-both"] == "call"
    assert seen.headers["authorization"] == "Basic b"
    client.generate("x", extra_headers={})
    assert server.posts[1].headers["authorization"] == "Bearer k"


@pytest.mark.parametrize("prompt", ["\ud800", "x"])
def test_what_is_no_json_is_refused_before_it_takes_a_slot(server: TgiServer, prompt: str) -> None:
    with Client(server.url, environment={}) as client:
        with pytest.raises(ValueError, match=r"surrogates|not JSON compliant"):
            client.generate(prompt, temperature=float("nan") if prompt == "x" else None)
        assert client.stats().total_requests == 0


def test_generate_batch_keeps_the_order(server: TgiServer, make_client: MakeClient) -> None:
    server.handler = lambda seen: json_reply({"generated_text": seen.body["inputs"].upper()})
    client = make_client(server.url)
    prompts = [f"p{n}" for n in range(30)]
    results = client.generate_batch(prompts, concurrency=4)
    assert [result.generated_text for result in results] == [prompt.upper() for prompt in prompts]
    assert server.max_at_once <= 4
    assert client.generate_batch([]) == []


def test_generate_batch_and_errors(server: TgiServer, make_client: MakeClient) -> None:
    server.handler = lambda seen: error_reply(422, "validation") if seen.body["inputs"] == "bad" else tgi(seen)
    client = make_client(server.url)
    results = client.generate_batch(["a", "bad", "c"], return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["GenerateResult", "ValidationError", "GenerateResult"]
    with pytest.raises(ValidationError):
        client.generate_batch(["bad", *"abcdef"], concurrency=1)
    assert client.stats().global_current_requests == 0


# chat and completions


def test_chat_sends_openais_shape(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "data:,x"}}]
    messages = [{"role": "user", "content": parts}]
    client.chat.completions.create(messages=messages, model="adapter", max_tokens=2, temperature=0)
    client.chat("hi", stream=True).final()
    first, second = (seen.body for seen in server.posts)
    assert first == {"model": "adapter", "messages": messages, "max_tokens": 2, "temperature": 0}
    assert second == {"model": "tgi", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def test_which_model_is_named(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(Endpoint(server.url, model="of the endpoint"))
    client.chat("x")
    client.with_options(model="of the client").chat("x")
    client.chat("x", model="of the call")
    assert [seen.body["model"] for seen in server.posts] == ["of the endpoint", "of the client", "of the call"]


def test_chat_result(server: TgiServer, make_client: MakeClient) -> None:
    result = make_client(server.url).chat_completion("one two", max_tokens=2)
    assert result.choices[0].message.content == result.text == str(result) == text(2)
    assert result.choices[0].finish_reason == "length"
    assert result.system_fingerprint == "3.3-native"


def test_chat_stream_equals_the_whole_answer(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    stream = client.chat("x", stream=True, max_tokens=4)
    assert [chunk.choices[0].delta.content for chunk in stream] == [" one", " twö", " 三", " 🙂"]
    assert stream.final().choices == client.chat("x", max_tokens=4).choices


@pytest.mark.parametrize("shape", ["list", "object"])
def test_tool_calls_of_a_stream_are_put_together(server: TgiServer, make_client: MakeClient, shape: str) -> None:
    """TGI before 3.1 streams one object where OpenAI, and TGI since, stream a list."""

    def chunk(function: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        call = {"index": 0, "id": "0", "type": "function", "function": function}
        delta = {"role": "assistant", "tool_calls": [call] if shape == "list" else call}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    pieces = [
        chunk({"name": "weather", "arguments": "{"}),
        chunk({"name": None, "arguments": '"city": "Rome"'}),
        chunk({"name": None, "arguments": "}"}, "stop"),
    ]
    server.replies.append(stream_reply(sse(pieces, done=True)))
    message = make_client(server.url).chat("x", stream=True).final().choices[0].message
    [call] = message.tool_calls
    assert (call.id, call.function.name, json.loads(call.function.arguments)) == ("0", "weather", {"city": "Rome"})
    assert message.content is None


def test_tool_call_arguments_of_old_servers_become_json(server: TgiServer, make_client: MakeClient) -> None:
    call = {"id": 0, "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    choice = {"index": 0, "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "eos_token"}
    server.replies.append(json_reply({"choices": [choice]}))
    [made] = make_client(server.url).chat("x").choices[0].message.tool_calls
    assert isinstance(made, ToolCall)
    assert (made.id, made.function.arguments) == ("0", '{"a": 1}')


def test_completions_of_several_prompts(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    whole = client.completions.create(prompt=["a", "b"], max_tokens=2)
    streamed = client.completions(["a", "b"], max_tokens=2, stream=True).final()
    assert [choice.text for choice in whole.choices] == [text(2)] * 2
    assert streamed.choices == whole.choices
    assert server.posts[0].body["prompt"] == ["a", "b"]


def test_a_stream_that_lacks_one_of_the_prompts_is_incomplete(server: TgiServer, make_client: MakeClient) -> None:
    chunk = {"choices": [{"index": 0, "text": "t", "finish_reason": "length"}]}
    server.replies.append(stream_reply(sse([chunk])))
    with pytest.raises(IncompleteStreamError):
        make_client(server.url).completions(["a", "b"], stream=True).final()


# questions about the server


def test_info_models_metrics_tokenize(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    info = client.info()
    assert (info.model_id, info.version, info.max_input_tokens, info.max_total_tokens) == ("m", "3.3.6", 100, None)
    assert info.raw["max_best_of"] == info.max_best_of == 2
    assert [model.id for model in client.models.list()] == ["m"]
    assert client.metrics().samples() == {"tgi_request_count": 3.0, 'tgi_batch{size="a b"}': 1.5}
    assert client.tokenize("hé").ids == (104, 233)
    chat = client.chat_tokenize("hi")
    assert chat.templated_text == "<user>hi"
    assert len(chat.ids) == len(chat.templated_text)


def test_one_model_by_name(server: TgiServer, make_client: MakeClient) -> None:
    server.handler = lambda seen: json_reply({"id": "org/m"}) if seen.path == "/v1/models/org/m" else Reply(404)
    client = make_client(server.url)
    assert client.models.retrieve("org/m").id == "org/m"
    with pytest.raises(NotFoundError):
        client.models.retrieve("other")


def test_info_of_tgi_1_has_max_input_length(server: TgiServer, make_client: MakeClient) -> None:
    server.handler = lambda seen: json_reply({"model_id": "m", "max_input_length": 1024, "version": "1.4.5"})
    assert make_client(server.url).info().max_input_tokens == 1024


def test_questions_pass_by_a_full_line(server: TgiServer) -> None:
    with Client(Endpoint(server.url, max_concurrent=1, queue_size=0), environment={}) as client, server.held() as gate:
        thread = threading.Thread(target=client.generate, args=("x",))
        thread.start()
        server.wait_for(lambda: len(server.posts) == 1)
        assert client.health()
        assert client.info().model_id == "m"
        gate.set()
        thread.join()
        assert client.stats().total_requests == 1


def test_health(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    assert client.health() is True
    server.handler = lambda seen: error_reply(503, "healthcheck", "unhealthy")
    assert client.health() is False
    assert len(server.requests) == 2, "health is one attempt"
    server.stop()
    assert client.health() is False


def test_info_is_repeated_and_reports_its_attempts(server: TgiServer, make_client: MakeClient) -> None:
    answers = [Reply(503), Reply(502), json_reply({"model_id": "m"})]
    server.handler = lambda seen: answers.pop(0)
    client = make_client(server.url, retry=RetryPolicy(initial_delay=0.01))
    assert client.info().response.attempts == 3
    answers.append(Reply(404))
    with pytest.raises(NotFoundError) as caught:
        client.info(request_id="mine")
    assert (caught.value.attempts, caught.value.request_id) == (1, "mine")


def test_wait_ready_returns_soon_after_the_first_answer(make_client: MakeClient) -> None:
    with TgiServer() as reserved:
        port = reserved.port
    late = TgiServer(port=port)
    ready: list[float] = []

    def start() -> None:
        time.sleep(0.3)
        late.start()
        ready.append(time.monotonic())

    thread = threading.Thread(target=start)
    thread.start()
    client = make_client(late.url)
    client.wait_ready(30)
    returned = time.monotonic()
    thread.join()
    late.stop()
    assert returned - ready[0] < 3.0, "slept a multiple of its poll"


def test_wait_ready_sleeps_its_poll_between_questions() -> None:
    """The flow by hand, no clock and no network: three refusals, then an answer."""
    client = Client("http://h", environment={})
    flow = client._ready_flow(60, 0.1, None, ThreadSignal)
    effect = next(flow)
    for _ in range(3):
        assert isinstance(effect, Send)
        assert effect.request.url == "http://h/health"
        assert flow.throw(httpx.ConnectError("refused")) == Sleep(0.1)
        effect = flow.send(None)
    with pytest.raises(StopIteration):
        flow.send((httpx.Response(200), b""))
    client.close()


def test_wait_ready_waits_for_every_endpoint(server: TgiServer, make_client: MakeClient) -> None:
    loading = [error_reply(503, "healthcheck")] * 3
    with TgiServer(lambda seen: loading.pop() if loading else Reply()) as slow:
        pool = EndpointPool([server.url, slow.url])
        make_client(pool=pool).wait_ready(10, poll=0.01)
        assert len(slow.requests) == 4
        loading.extend([error_reply(503, "healthcheck")] * 100)
        make_client(pool=pool).wait_ready(10, endpoint=pool.ids[0])


def test_wait_ready_gives_up(server: TgiServer, make_client: MakeClient) -> None:
    server.handler = lambda seen: error_reply(503, "healthcheck", "unhealthy")
    with pytest.raises(APITimeoutError, match=r"is not ready after 0.2 s: unhealthy"):
        make_client(server.url).wait_ready(0.2, poll=0.02)
    server.handler = lambda seen: Reply(401)
    with pytest.raises(AuthenticationError):
        make_client(server.url).wait_ready(30)


def test_raw_requests(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    answer = client.request("POST", "/generate", json={"inputs": "x"})
    assert answer.json["generated_text"] == text(3)
    assert client.request("get", "/metrics").json is None
    assert "tgi_request_count" in client.request("GET", "/metrics").text
    with pytest.raises(NotFoundError):
        client.request("GET", "/nowhere")


# other servers


def test_hosted_api(server: TgiServer, make_client: MakeClient) -> None:
    """One URL for everything; a list, no details; the prompt is repeated unless the request says not to."""

    def hosted(seen: Seen) -> Reply:
        assert seen.path in ("/models/org/m", "/models/org/m/v1/chat/completions")
        if seen.path.endswith("completions"):
            return tgi(Seen(seen.method, "/v1/chat/completions", seen.headers, seen.body, seen.at, 0))
        if seen.method == "GET":
            return json_reply({"state": "Loaded"})
        assert seen.parameters["return_full_text"] is False
        if seen.body.get("stream"):
            return stream_reply(sse(events(seen.body["inputs"], seen.parameters)))
        return json_reply([generated(seen.body["inputs"], {})])

    server.handler = hosted
    client = make_client(Endpoint(f"{server.url}/models/org/m", dialect="hosted", api_key="hf_k"))
    assert client.generate("x").generated_text == text(3)
    assert client.generate("x", stream=True).final().generated_text == text(3)
    assert client.chat("x").text == text(3)
    assert client.health()
    assert {seen.key for seen in server.requests} == {"hf_k"}


def test_hosted_model_that_cannot_stream(server: TgiServer, make_client: MakeClient) -> None:
    server.handler = lambda seen: json_reply([{"generated_text": "all at once"}])
    client = make_client(Endpoint(f"{server.url}/models/m", dialect="hosted"))
    assert list(client.generate("x", stream=True).text_deltas()) == ["all at once"]
    assert client.generate("x", stream=True).final().generated_text == "all at once"


def test_hosted_model_that_is_loading(server: TgiServer, make_client: MakeClient) -> None:
    server.replies.append(json_reply({"error": "Model m is currently loading", "estimated_time": 0.3}, 503))
    client = make_client(Endpoint(f"{server.url}/models/m", dialect="hosted"), retry=RetryPolicy(initial_delay=0))
    server.handler = lambda seen: json_reply([{"generated_text": "loaded"}])
    assert str(client.generate("x")) == "loaded"
    assert server.posts[1].at - server.posts[0].at >= 0.3


def test_an_error_with_status_200(server: TgiServer, make_client: MakeClient) -> None:
    server.replies.append(json_reply({"error": "Model m is currently loading", "estimated_time": 20.0}))
    with pytest.raises(APIStatusError, match="currently loading"):
        make_client(server.url, max_retries=0).generate("x")


def test_tgi_0_9_has_neither_index_nor_input_length(server: TgiServer, make_client: MakeClient) -> None:
    made = events("x", {})
    for event in made:
        del event["index"]
    del made[-1]["details"]["input_length"]
    server.replies.append(stream_reply(sse(made, prefix="data:")))
    stream = make_client(server.url).generate("x", stream=True)
    assert [event.index for event in stream] == [None] * 3
    result = stream.final()
    assert (result.generated_text, result.usage.completion_tokens) == (text(3), 3)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b"null", b'{"generated_text": "a", "details": {"x": 1}}'])
def test_an_answer_that_is_none(server: TgiServer, make_client: MakeClient, body: bytes) -> None:
    server.replies.append(Reply(pieces=(body,)))
    client = make_client(server.url)
    with pytest.raises(InvalidResponseError) as caught:
        client.generate("x")
    assert caught.value.body == body.decode()
    assert caught.value.response.status == 200
    assert client.stats().failed_requests == 1


def test_an_event_that_is_none(server: TgiServer, make_client: MakeClient) -> None:
    first, *_ = sse(events("x", {}))
    server.replies.append(stream_reply([first, b'data: {"token": 7}\n\n']))
    stream = make_client(server.url).generate("x", stream=True)
    with pytest.raises(InvalidResponseError, match="cannot be read"):
        list(stream)


# settings


def test_options_of_the_client_and_of_the_call(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    patient = client.with_options(timeout=60, request_id="fixed", max_retries=0)
    assert patient.pool is client.pool
    server.replies += [Reply(503)]
    with pytest.raises(TGIError) as caught:
        patient.generate("x")
    assert (caught.value.attempts, caught.value.request_id) == (1, "fixed")
    assert client.generate("x").response.request_id != "fixed"
    with pytest.raises(TypeError, match="unknown argument 'retries'; did you mean 'max_retries'"):
        client.with_options(retries=3)


def test_timeouts(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url, timeout=0.1, max_retries=0)
    with server.held(), pytest.raises(APITimeoutError) as caught:
        client.generate("x")
    assert caught.value.phase == "read"
    with server.held(), pytest.raises(APITimeoutError):
        client.generate("x", timeout=httpx.Timeout(5, read=0.05))


def test_timeouts_are_retried_unless_told_otherwise(server: TgiServer, make_client: MakeClient) -> None:
    server.replies += [Reply(hold=threading.Event()), tgi]
    assert make_client(server.url, timeout=0.5).generate("x").response.attempts == 2
    server.replies += [Reply(hold=threading.Event()), tgi]
    with pytest.raises(APITimeoutError):
        make_client(server.url, timeout=0.5, retry=RetryPolicy(on_timeouts=False)).generate("x")


def test_an_endpoints_retry_policy_goes_before_the_clients(server: TgiServer, make_client: MakeClient) -> None:
    server.replies += [Reply(503)] * 4
    never = RetryPolicy(max_retries=0)
    client = make_client(Endpoint(server.url, retry=never), retry=RetryPolicy(initial_delay=0.01))
    with pytest.raises(TGIError) as caught:
        client.generate("x")
    assert caught.value.attempts == 1


def test_a_session_stays_at_its_endpoint(server: TgiServer, make_client: MakeClient) -> None:
    pool = EndpointPool([Endpoint(server.url, id=id) for id in "abcd"], "round_robin")
    client = make_client(pool=pool)
    for session in ("s1", "s2", "s3"):
        assert len({client.generate("x", session=session).response.endpoint for _ in range(4)}) == 1


def test_unknown_endpoint(server: TgiServer, make_client: MakeClient) -> None:
    with pytest.raises(KeyError, match="no endpoint 'nope'"):
        make_client(server.url).generate("x", endpoint="nope")


def test_a_pool_may_be_filled_later(server: TgiServer, make_client: MakeClient) -> None:
    pool = EndpointPool()
    client = make_client(pool=pool)
    with pytest.raises(ValueError, match="the pool has no endpoint"):
        client.generate("x")
    pool.add(server.url)
    assert client.generate("x").generated_text == text(3)


def test_settings_can_be_pickled() -> None:
    for settings in (Endpoint("http://h", api_key="k", retry=RetryPolicy.ipfs()), RetryPolicy()):
        assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_client_of_ones_own_is_used_and_not_closed() -> None:
    """A transport in memory: the seam that httpx has for tests."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"generated_text": "from memory"})

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        with Client("http://nowhere.example", http_client=http, environment={}) as client:
            assert str(client.generate("x")) == "from memory"
        assert not http.is_closed
    assert seen[0].url == "http://nowhere.example/generate"


def test_threads_share_a_client(server: TgiServer) -> None:
    with Client(Endpoint(server.url, max_concurrent=4, queue_size=None), environment={}) as client:
        with server.held() as gate, ThreadPoolExecutor(1) as thread:
            batch = thread.submit(client.generate_batch, ["x"] * 60, concurrency=20)
            server.wait_for(lambda: server.max_at_once == 4)
            gate.set()
            assert len(batch.result()) == 60
        assert server.max_at_once == 4
        assert client.stats().successful_requests == 60


async def test_several_calls_at_once(server: TgiServer) -> None:
    async with AsyncClient(Endpoint(server.url, max_concurrent=4), environment={}) as client:
        with server.held():
            tasks = [asyncio.create_task(client.generate("x")) for _ in range(40)]
            await asyncio.to_thread(server.wait_for, lambda: server.max_at_once == 4)
        results = await asyncio.gather(*tasks)
    assert {result.generated_text for result in results} == {text(3)}
    assert server.max_at_once == 4


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)


@pytest.mark.parametrize("path", ["/generate_stream", "/v1/chat/completions"])
def test_raw_streams(server: TgiServer, make_client: MakeClient, path: str) -> None:
    client = make_client("http://127.0.0.1:9")
    body = {"inputs": "x", "messages": [{"role": "user", "content": "x"}], "stream": True}
    stream = client.stream_request("POST", server.url + path, json=body)
    assert "".join(stream.text_deltas()) == text(3)
    assert all(isinstance(event, dict) for event in stream.final())
    assert client.stats().successful_requests == 1


@pytest.mark.parametrize(
    ("pieces", "cut", "is_whole"),
    [
        (sse([{"n": 1}, {"n": 2}]), False, True),
        (sse([{"n": 1}, {"n": 2}]), True, False),
        (sse(events("x", {}))[:2], False, False),
        (sse([{"n": 1}, {"n": 2}], done=True), False, True),
    ],
    ids=["ended", "cut", "no final token", "done"],
)
def test_raw_streams_that_end_otherwise(
    server: TgiServer, make_client: MakeClient, pieces: tuple[bytes, ...], cut: bool, is_whole: bool
) -> None:
    server.replies.append(stream_reply(pieces, cut=cut))
    stream = make_client(server.url).stream_request("POST", "/any", json={})
    if is_whole:
        assert len(stream.final()) == 2
    else:
        with pytest.raises(IncompleteStreamError):
            stream.final()


def test_a_raw_stream_that_is_answered_at_once(server: TgiServer, make_client: MakeClient) -> None:
    assert list(make_client(server.url).stream_request("POST", "/generate", json={"inputs": "x"})) == [
        {"generated_text": text(3)}
    ]
