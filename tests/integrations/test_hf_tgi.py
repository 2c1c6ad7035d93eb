"""The old backend's methods against a live server: what its own tests only mocked."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
    num_prompt_tokens,
    sse,
    stream_reply,
    text,
    tgi,
)

from segue.client import (
    AuthenticationError,
    GenerationError,
    IncompleteStreamError,
    NotFoundError,
    QueueFullError,
    ValidationError,
)
from segue.integrations.hf_tgi import HFTGIMultiplexer, UnknownEndpointError, hf_tgi


@pytest.fixture
def backend(server: TgiServer) -> Iterator[hf_tgi]:
    made = hf_tgi({}, {"hf_api_key": "main-key", "hf_container_url": server.url, "model_id": "m"}, environment={})
    made.initial_retry_delay = 0.01
    yield made
    made.close()


def test_endpoints_are_created_with_their_own_settings(backend: hf_tgi) -> None:
    first, second = backend.create_endpoint(api_key="k1"), backend.create_endpoint("mine", "k2", max_retries=1)
    assert first.startswith("endpoint_")
    assert second == "mine"
    assert backend.get_endpoint("mine") == {
        "endpoint_id": "mine",
        "model": None,
        "api_key": "k2",
        "max_retries": 1,
        "initial_retry_delay": 0.01,
        "backoff_factor": 2.0,
        "max_retry_delay": 16.0,
        "queue_enabled": True,
        "max_concurrent_requests": 5,
        "queue_size": 100,
    }
    assert backend.get_endpoint()["endpoint_id"] == first
    assert backend.get_endpoint("made on demand")["api_key"] == "main-key"
    assert list(backend.endpoints) == [first, "mine", "made on demand"]


def test_an_endpoint_needs_no_key(server: TgiServer) -> None:
    """The original raised AttributeError there."""
    backend = hf_tgi(metadata={"hf_container_url": server.url}, environment={})
    backend.generate_text("m", "x", endpoint_id=backend.create_endpoint())
    assert server.posts[0].key is None
    backend.close()


def test_update_endpoint(backend: hf_tgi) -> None:
    id = backend.create_endpoint("e", "k1")
    changed = backend.update_endpoint(id, max_concurrent_requests=2, api_key="k2")
    assert (changed["max_concurrent_requests"], changed["api_key"], changed["max_retries"]) == (2, "k2", 5)
    with pytest.raises(TypeError, match="no setting 'speed'"):
        backend.update_endpoint(id, speed=1)


@pytest.mark.parametrize("method", ["update_endpoint", "get_stats", "reset_stats", "check_circuit_breaker"])
@pytest.mark.parametrize("kind", [KeyError, ValueError])
def test_unknown_endpoints(backend: hf_tgi, method: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="no endpoint 'x'; there are: none"):
        getattr(backend, method)("x")
    with pytest.raises(UnknownEndpointError):
        backend.generate_text("m", "x", endpoint_id="x")


def test_each_endpoints_key_reaches_the_server(backend: hf_tgi, server: TgiServer) -> None:
    """The original sent a row of asterisks."""
    for id in (backend.create_endpoint(api_key="k1"), backend.create_endpoint(api_key="k2"), None):
        backend.generate_text("m", "x", endpoint_id=id)
    backend.generate_text("m", "x", api_token="for this call")
    backend.make_post_request_hf_tgi(f"{server.url}/generate", {"inputs": "x"}, api_key="the older name")
    assert [seen.key for seen in server.posts] == ["k1", "k2", "main-key", "for this call", "the older name"]


def test_requests_carry_id_and_content_type(backend: hf_tgi, server: TgiServer) -> None:
    answer = backend.generate_text("m", "x", request_id="mine")
    assert answer["request_id"] == "mine"
    assert server.posts[0].headers["x-request-id"] == "mine"
    assert server.posts[0].headers["content-type"] == "application/json"
    for _ in range(2):
        assert "request_id" not in backend.generate_text("m", "x")
    assert len({seen.headers["x-request-id"] for seen in server.posts}) == 3


def test_post_goes_to_exactly_the_url(backend: hf_tgi) -> None:
    """The original computed a custom URL and then called the hosted API."""
    with TgiServer(lambda seen: json_reply([generated(seen.body["inputs"], {})])) as other:
        answer = backend.make_post_request_hf_tgi(f"{other.url}/any/path", {"inputs": "x"})
        assert other.posts[0].path == "/any/path"
        assert other.posts[0].body == {"inputs": "x"}
    assert answer == [{"generated_text": text(3)}]


def test_generate_text(backend: hf_tgi, server: TgiServer) -> None:
    parameters = {"max_new_tokens": 2, "temperature": 0.8, "top_p": 0.95}
    assert backend.generate_text("m", "x", parameters) == {"generated_text": text(2)}
    assert server.posts[0].body == {"inputs": "x", "parameters": parameters}
    server.replies.append(json_reply([{"generated_text": "first"}, {"generated_text": "second"}]))
    assert backend.generate_text("m", "x") == {"generated_text": "first"}
    assert server.posts[1].body == {"inputs": "x"}


def test_hosted_urls() -> None:
    backend = hf_tgi(metadata={"hf_api_token": "t"}, environment={})
    assert backend.is_hosted
    assert backend._generate_url("org/m") == "https://api-inference.huggingface.co/models/org/m"
    assert backend._chat_url("org/m") == "https://api-inference.huggingface.co/models/org/m/v1/chat/completions"
    assert backend._chat_url("http://h/generate_stream") == "http://h/v1/chat/completions"
    assert backend._generate_url("http://h/generate", is_stream=True) == "http://h/generate_stream"
    backend.close()


def test_run_inference(backend: hf_tgi, server: TgiServer) -> None:
    id = backend.create_endpoint("e")
    assert backend.run_inference("m", "x", {"max_new_tokens": 1}, priority=0, request_id="r", endpoint_id=id) == {
        "model": "m",
        "task": "text-generation",
        "outputs": [text(1)],
        "implementation_type": "(REAL)",
        "backend": "hf_tgi",
        "raw_response": {"generated_text": text(1), "request_id": "r"},
        "request_id": "r",
        "endpoint_id": "e",
    }
    assert set(backend.run_inference("m", "x")) & {"request_id", "endpoint_id"} == set()


def test_streaming(backend: hf_tgi, server: TgiServer) -> None:
    chunks = list(backend.stream_generate("m", "x", {"max_new_tokens": 4}, request_id="r"))
    assert [chunk["token"]["text"] for chunk in chunks] == [" one", " twö", " 三", " 🙂"]
    assert chunks[-1]["generated_text"] == text(4)
    assert {chunk["request_id"] for chunk in chunks} == {"r"}
    oldest = list(backend.stream_generate(f"{server.url}/generate", "x", "the key", max_new_tokens=2))
    assert [chunk["token"]["text"] for chunk in oldest] == [" one", " twö"]
    assert server.posts[1].path == "/generate_stream"
    assert server.posts[1].key == "the key"
    assert server.posts[1].parameters == {"max_new_tokens": 2}
    data = {"inputs": "x", "parameters": {}}
    assert len(list(backend.make_stream_request_hf_tgi(f"{server.url}/generate_stream", data))) == 3
    assert len(list(backend.make_post_request_hf_tgi(f"{server.url}/generate_stream", data, stream=True))) == 3
    assert data == {"inputs": "x", "parameters": {}}, "the caller's data was changed"


def test_stream_errors_are_raised_not_passed_on_as_text(backend: hf_tgi, server: TgiServer) -> None:
    first, *_ = sse(events("x", {}))
    server.replies.append(stream_reply([first, *sse([{"error": "boom", "error_type": "generation"}])]))
    stream = backend.stream_generate("m", "x")
    assert next(stream)["token"]["text"] == " one"
    with pytest.raises(GenerationError, match="boom"):
        next(stream)
    server.replies.append(stream_reply([first], cut=True))
    with pytest.raises(IncompleteStreamError):
        list(backend.stream_generate("m", "x"))
    assert backend.current_requests == 0


def test_a_stream_that_is_left_gives_its_slot_back(backend: hf_tgi, server: TgiServer) -> None:
    gate = threading.Event()
    server.replies.append(stream_reply(sse(events("x", {})), hold=gate, hold_after=1))
    stream = backend.stream_generate("m", "x")
    next(stream)
    assert backend.current_requests == 1
    stream.close()  # type: ignore[attr-defined]
    assert backend.current_requests == 0
    gate.set()


def test_chat_uses_the_models_own_template_and_the_servers_counts(backend: hf_tgi, server: TgiServer) -> None:
    messages = [{"role": "user", "content": "two words"}]
    options = {"max_tokens": 2, "temperature": 0.5, "request_id": "r"}
    assert backend.chat("m", messages, options) == {
        "text": text(2),
        "model": "m",
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4},
        "implementation_type": "(REAL)",
        "request_id": "r",
    }
    assert server.posts[0].path == "/v1/chat/completions"
    assert server.posts[0].body == {"model": "tgi", "messages": messages, "max_tokens": 2, "temperature": 0.5}


def old_server(seen: Seen) -> Reply:
    """TGI before 1.4 has no chat."""
    return Reply(404) if seen.path.startswith("/v1") else tgi(seen)


def without_template(seen: Seen) -> Reply:
    return error_reply(422, "template_error", "no template") if seen.path.startswith("/v1") else tgi(seen)


@pytest.mark.parametrize("handler", [old_server, without_template])
def test_chat_where_the_server_has_none(backend: hf_tgi, server: TgiServer, handler: Any) -> None:
    server.handler = handler
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "stranger", "content": "Bye"},
    ]
    prompt = "<|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\nHello\n<|user|>\nBye\n<|assistant|>\n"
    answer = backend.chat("m", messages, {"max_tokens": 2, "top_k": 3})
    assert answer["text"] == text(2)
    count = num_prompt_tokens(prompt)
    assert answer["usage"] == {"prompt_tokens": count, "completion_tokens": 2, "total_tokens": count + 2}
    assert server.posts[-1].body == {
        "inputs": prompt,
        "parameters": {"max_new_tokens": 2, "top_k": 3, "details": True},
    }
    chunks = list(backend.stream_chat("m", messages, {"max_tokens": 2}))
    assert "".join(chunk["text"] for chunk in chunks) == text(2)


def test_stream_chat(backend: hf_tgi) -> None:
    chunks = list(backend.stream_chat("m", [{"role": "user", "content": "x"}], {"max_tokens": 2}, request_id="r"))
    assert chunks == [
        {"text": " one", "done": False, "model": "m", "request_id": "r"},
        {"text": " twö", "done": False, "model": "m", "request_id": "r"},
        {"text": "", "done": True, "model": "m", "request_id": "r"},
    ]


@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (404, NotFoundError), (422, ValidationError)])
def test_the_callers_faults_are_raised_at_once(
    backend: hf_tgi, server: TgiServer, status: int, kind: type[Exception]
) -> None:
    """The original slept 31 s over five retries of each, and opened its breaker."""
    server.replies.append(Reply(status))
    with pytest.raises(kind):
        backend.generate_text("m", "x")
    assert len(server.posts) == 1
    assert backend.check_circuit_breaker()


def test_retries_follow_the_endpoints_settings(backend: hf_tgi, server: TgiServer) -> None:
    id = backend.create_endpoint(max_retries=1, initial_retry_delay=0.01)
    server.replies += [Reply(503)] * 2
    with pytest.raises(Exception, match="HTTP 503"):
        backend.generate_text("m", "x", endpoint_id=id)
    assert len(server.posts) == 2
    server.replies.append(error_reply(429, "overloaded", retry_after="0.2"))
    backend.generate_text("m", "x", endpoint_id=id)
    assert server.posts[-1].at - server.posts[-2].at >= 0.2


def test_limits_and_queue_are_real(backend: hf_tgi, server: TgiServer) -> None:
    id = backend.create_endpoint(max_concurrent_requests=2, queue_size=3)
    with server.held() as gate, ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(backend.generate_text, "m", "x", endpoint_id=id) for _ in range(5)]
        while len(backend.request_queue) < 3:
            time.sleep(0.001)
        assert backend.current_requests == 2
        with pytest.raises(ValueError, match=r"Request queue is full \(3 items\). Try again later."):
            backend.generate_text("m", "x", endpoint_id=id)
        server.wait_for(lambda: server.max_at_once == 2)
        gate.set()
        assert [call.result()["generated_text"] for call in calls] == [text(3)] * 5
    assert server.max_at_once == 2
    assert len(server.posts) == 5
    backend.update_endpoint(id, queue_enabled=False, max_concurrent_requests=1)
    with server.held() as gate, ThreadPoolExecutor(1) as threads:
        call = threads.submit(backend.generate_text, "m", "x", endpoint_id=id)
        server.wait_for(lambda: len(server.posts) == 6)
        with pytest.raises(QueueFullError):
            backend.generate_text("m", "x", endpoint_id=id)
        gate.set()
        call.result()


def test_queue_with_priority(backend: hf_tgi, server: TgiServer) -> None:
    id = backend.create_endpoint(max_concurrent_requests=1)
    futures = []
    with server.held() as gate:
        for position, (prompt, priority) in enumerate(
            [("first", None), ("low", hf_tgi.PRIORITY_LOW), ("normal", None), ("high", hf_tgi.PRIORITY_HIGH)]
        ):
            info = {"endpoint_url": f"{server.url}/generate", "data": {"inputs": prompt}, "endpoint_id": id}
            futures.append(backend.queue_with_priority(info, priority))
            while backend.get_stats(id)["total_requests"] <= position:
                time.sleep(0.001)
        gate.set()
    assert [future.result(10)["generated_text"] for future in futures] == [text(3)] * 4
    assert [seen.body["inputs"] for seen in server.posts] == ["first", "high", "normal", "low"]
    failing = backend.queue_with_priority({"endpoint_url": f"{server.url}/nowhere", "data": {}})
    with pytest.raises(NotFoundError):
        failing.result(10)


def test_statistics_count(backend: hf_tgi, server: TgiServer) -> None:
    """The original's counters never moved."""
    first, second = backend.create_endpoint("a"), backend.create_endpoint("b")
    for id in (first, first, second):
        backend.make_request_with_endpoint(id, {"inputs": "two words", "parameters": {"details": True}})
    backend.chat("m", [{"role": "user", "content": "two words"}], endpoint_id=first)
    server.replies.append(Reply(422))
    with pytest.raises(ValidationError):
        backend.generate_text("m", "x", endpoint_id=second)
    stats = backend.get_stats(first)
    assert (stats["total_requests"], stats["successful_requests"], stats["failed_requests"]) == (3, 3, 0)
    assert (stats["input_tokens"], stats["output_tokens"], stats["total_tokens"]) == (6, 9, 15)
    assert (stats["endpoint_id"], stats["current_queue_size"], stats["current_requests"]) == ("a", 0, 0)
    assert stats["last_request_at"] >= stats["created_at"]
    totals = backend.get_stats()
    assert totals["endpoints_count"] == 2
    assert (totals["total_requests"], totals["failed_requests"], totals["global_queue_size"]) == (5, 1, 0)
    backend.reset_stats(first)
    assert backend.get_stats(first)["total_requests"] == 0
    assert backend.get_stats(second)["total_requests"] == 2


def test_breaker(backend: hf_tgi, server: TgiServer) -> None:
    id = backend.create_endpoint(max_retries=0)
    server.replies += [Reply(500)] * 5
    for _ in range(5):
        with pytest.raises(Exception, match="HTTP 500"):
            backend.generate_text("m", "x", endpoint_id=id)
    assert not backend.check_circuit_breaker(id)
    with pytest.raises(Exception, match="failed repeatedly"):
        backend.generate_text("m", "x", endpoint_id=id)
    assert len(server.posts) == 5


async def test_async_handler(backend: hf_tgi, server: TgiServer) -> None:
    handler = backend.create_remote_text_generation_endpoint_handler(f"{server.url}/generate", "k")
    assert await handler("x", max_new_tokens=2) == text(2)
    assert server.posts[0].key == "k"
    assert server.posts[0].parameters == {
        "max_new_tokens": 2,
        "temperature": 0.7,
        "top_p": 0.9,
        "do_sample": True,
        "return_full_text": False,
    }
    stream = await handler("x", stream=True, max_new_tokens=2)
    assert [delta async for delta in stream] == [" one", " twö"]
    messages = [{"role": "user", "content": "x"}]
    assert await handler(messages, max_new_tokens=2) == text(2)
    assert server.posts[-1].path == "/v1/chat/completions"
    assert "".join([delta async for delta in await handler(messages, stream=True)]) != ""
    server.handler = old_server
    assert await handler(messages, max_new_tokens=2) == text(2)
    assert "".join([delta async for delta in await handler(messages, stream=True, max_new_tokens=2)]) == text(2)
    server.handler = lambda seen: Reply(401)
    with pytest.raises(AuthenticationError):
        await handler("x")
    await backend.aclose()


async def test_the_async_handler_does_not_block_the_loop(backend: hf_tgi, server: TgiServer) -> None:
    handler = backend.create_remote_text_generation_endpoint_handler()
    with server.held():
        tasks = [asyncio.create_task(handler("x")) for _ in range(3)]
        await asyncio.to_thread(server.wait_for, lambda: len(server.posts) == 3)
    assert await asyncio.gather(*tasks) == [text(1024)] * 3
    await backend.aclose()


def test_blocking_handler_and_format_request(backend: hf_tgi, server: TgiServer) -> None:
    handler = backend.create_hf_tgi_endpoint_handler("m", f"{server.url}/generate")
    assert backend.format_request(handler, "x") == text(3)
    assert backend.format_request(handler, "x", max_new_tokens=1, temperature=0.8, top_p=0.95) == text(1)
    assert server.posts[1].body == {
        "inputs": "x",
        "parameters": {"max_new_tokens": 1, "temperature": 0.8, "top_p": 0.95},
    }
    assert handler("x", {"max_new_tokens": 2}) == text(2)


def test_registered_urls(backend: hf_tgi, server: TgiServer) -> None:
    url = f"{server.url}/generate"
    assert backend.request_tgi_endpoint("m") is None
    registered, key, handler, queue, batch_size = backend.init(url, "k", "m")
    assert (registered, key, len(queue), batch_size) == (url, "k", 0, 32)
    assert backend.request_tgi_endpoint("m") == url
    assert backend.request_tgi_endpoint("m", endpoint_type="local", batch=["x"] * 32) == url
    assert backend.request_tgi_endpoint("m", endpoint_type="remote") is None
    assert backend.request_tgi_endpoint("m", "http://elsewhere") == "http://elsewhere"
    with pytest.raises(ValueError, match="a batch of 33 is too large"):
        backend.request_tgi_endpoint("m", batch=["x"] * 33)
    assert asyncio.run(call_and_close(backend, handler)) == text(1024)


async def call_and_close(backend: hf_tgi, handler: Any) -> str:
    try:
        return await handler("x")
    finally:
        await backend.aclose()


def test_checks_of_an_endpoint(backend: hf_tgi, server: TgiServer, capsys: pytest.CaptureFixture[str]) -> None:
    result = backend.test_hf_tgi_endpoint(f"{server.url}/generate", "k", "m", request_id="r")
    assert result == {
        "success": True,
        "message": text(50),
        "model": "m",
        "implementation_type": "(REAL)",
        "request_id": "r",
    }
    assert server.posts[0].parameters["max_new_tokens"] == 50
    assert backend.test_tgi_endpoint(f"{server.url}/generate", "k", "m") is True
    server.replies.append(error_reply(401, "x", "wrong key"))
    failed = backend.test_hf_tgi_endpoint(f"{server.url}/generate", "k")
    assert (failed["success"], failed["message"], failed["implementation_type"]) == (False, "wrong key", "(ERROR)")
    server.replies.append(Reply(404))
    assert backend.test_tgi_endpoint(f"{server.url}/generate") is False
    for make in (backend.create_hf_tgi_endpoint_handler, backend.create_remote_text_generation_endpoint_handler):
        handler = make(None, f"{server.url}/generate") if "remote" not in make.__name__ else make()
        assert backend.__test__(server.url, handler, "label") is True
        server.replies.append(Reply(401))
        assert backend.__test__(server.url, handler, "label") is False
    assert capsys.readouterr() == ("", "")


def test_keys_from_metadata_and_environment(server: TgiServer) -> None:
    metadata = {"hf_api_key_1": "k1", "model_id_1": "m1", "hf_api_key_2": "k2", "hf_container_url": server.url}
    backend = hf_tgi(metadata=metadata, environment={})
    assert {id: settings["model"] for id, settings in backend.endpoints.items()} == {
        "hf_api_key_1": "m1",
        "hf_api_key_2": None,
    }
    for _ in range(4):
        backend.generate_text(None, "x")
    assert sorted(str(seen.key) for seen in server.posts) == ["k1", "k1", "k2", "k2"]
    backend.close()
    from_environment = hf_tgi(environment={"HF_API_TOKEN": "t", "TGI_BASE_URL": server.url})
    from_environment.generate_text(None, "x")
    assert server.posts[-1].key == "t"
    from_environment.close()


def test_multiplexer(server: TgiServer) -> None:
    multiplexer = HFTGIMultiplexer({"hf_container_url": server.url}, environment={})
    with pytest.raises(ValueError, match="No HF TGI API keys have been added"):
        multiplexer.get_hf_tgi_client()
    for name in "abc":
        assert multiplexer.add_hf_tgi_key(name, f"key-{name}", max_concurrent=1) == name
    for _ in range(6):
        multiplexer.get_hf_tgi_client().generate_text(None, "x")
    assert [seen.key for seen in server.posts] == ["key-a", "key-b", "key-c"] * 2
    assert multiplexer.get_hf_tgi_client("b").api_token == "key-b"
    assert multiplexer.get_hf_tgi_client(strategy="any other").api_token == "key-a"
    with server.held() as gate, ThreadPoolExecutor(1) as threads:
        call = threads.submit(multiplexer.get_hf_tgi_client("a").generate_text, None, "x")
        server.wait_for(lambda: len(server.posts) == 7)
        assert multiplexer.get_hf_tgi_client(strategy="least-loaded").api_token == "key-b"
        assert multiplexer.get_usage_stats()["hf_tgi"]["a"]["current_requests"] == 1
        gate.set()
        call.result()
    assert multiplexer.get_usage_stats()["hf_tgi"]["a"] == {
        "usage": 4,
        "queue_size": 0,
        "current_requests": 0,
        "model_id": "google/t5-efficient-tiny",
        "total_requests": 3,
    }
    with pytest.raises(ValueError, match="no key 'z'; there are: a, b, c"):
        multiplexer.get_hf_tgi_client("z")
    multiplexer.close()
