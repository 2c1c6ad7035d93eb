"""The numbered behaviours that a client of TGI owes its users; each fails on at least one older client."""

import asyncio
import contextlib
import gc
import io
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from client.tgi_server import (
    Reply,
    Seen,
    TgiServer,
    error_reply,
    events,
    json_reply,
    num_prompt_tokens,
    sse,
    stream_reply,
    text,
    tgi,
)

from segue.client import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    AuthenticationError,
    BreakerPolicy,
    CircuitOpenError,
    Client,
    Endpoint,
    EndpointPool,
    GenerationError,
    IncompleteStreamError,
    OverloadedError,
    QueueFullError,
    QueueTimeoutError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    TGIError,
    ValidationError,
)
from segue.client.endpoint import Visit

MakeClient = Callable[..., Any]
QUICK = RetryPolicy(max_retries=2, initial_delay=0.01, jitter=0)


def wait_until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def assert_idle(pool: EndpointPool) -> None:
    """No slot is held, nobody waits, and the counts add up."""
    stats = pool.stats()
    assert (stats.global_current_requests, stats.global_queue_size) == (0, 0)
    assert stats.total_requests == stats.successful_requests + stats.failed_requests


# 1, 2: where requests go, with which key


def test_01_each_endpoint_sends_its_own_key(server: TgiServer, make_client: MakeClient) -> None:
    endpoints = [Endpoint(server.url, id=name, api_key=f"key-{name}") for name in "ab"]
    client = make_client(endpoints=endpoints)
    for name in "abba":
        assert client.generate("x", endpoint=name).response.endpoint == name
        list(client.generate("x", endpoint=name, stream=True))
    assert [seen.key for seen in server.posts] == [f"key-{name}" for name in "aabbbbaa"]


def test_02_every_method_uses_the_url_that_was_given(server: TgiServer, make_client: MakeClient) -> None:
    with TgiServer() as elsewhere:
        client = make_client(f"{server.url}/generate", environment={"TGI_BASE_URL": elsewhere.url})
        client.generate("x")
        list(client.generate_stream("x"))
        client.chat("x")
        list(client.chat.completions.create("x", stream=True))
        client.completions("x")
        client.tokenize("x")
        client.chat_tokenize("x")
        client.info()
        client.metrics()
        client.models.list()
        client.health()
        client.request("POST", "/tokenize", json={"inputs": "x"})
        assert elsewhere.requests == []
    assert [seen.path for seen in server.requests] == [
        "/generate",
        "/generate_stream",
        "/v1/chat/completions",
        "/v1/chat/completions",
        "/v1/completions",
        "/tokenize",
        "/chat_tokenize",
        "/info",
        "/metrics",
        "/v1/models",
        "/health",
        "/tokenize",
    ]


# 3, 4, 5: what is repeated, and when


def test_03_a_401_is_not_retried(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url, retry=RetryPolicy(max_retries=5, initial_delay=300.0))
    server.replies.append(Reply(401))
    began = time.monotonic()
    with pytest.raises(AuthenticationError) as caught:
        client.generate("x")
    assert time.monotonic() - began < 100, "slept before giving up"
    assert caught.value.attempts == 1
    assert len(server.posts) == 1


@pytest.mark.parametrize(("status", "kind"), [(400, "validation"), (404, "x"), (422, "validation"), (413, "x")])
def test_03_nor_is_any_other_fault_of_the_caller(
    server: TgiServer, make_client: MakeClient, status: int, kind: str
) -> None:
    client = make_client(server.url, retry=QUICK)
    server.replies.append(error_reply(status, kind))
    with pytest.raises(TGIError):
        client.generate("x")
    assert len(server.posts) == 1


def test_04_retry_after_seconds(server: TgiServer, make_client: MakeClient) -> None:
    server.replies.append(error_reply(429, "overloaded", retry_after="2"))
    result = make_client(server.url, retry=QUICK).generate("x")
    first, second = (seen.at for seen in server.posts)
    assert 2.0 <= second - first < 100
    assert result.response.attempts == 2


def test_04_retry_after_fraction_is_exact_whatever_the_jitter(server: TgiServer, make_client: MakeClient) -> None:
    server.replies.append(error_reply(429, "overloaded", retry_after="0.3"))
    make_client(server.url, retry=RetryPolicy(initial_delay=500, jitter=0.5)).generate("x")
    first, second = (seen.at for seen in server.posts)
    assert 0.3 <= second - first < 100


def test_04_who_waits_for_retry_after_sleeps(
    server: TgiServer, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of a paused line woke itself for as long as the pause lasted."""
    num_polls = 0

    def counted(visit: Visit) -> tuple[bool, float | None]:
        nonlocal num_polls
        num_polls += 1
        return poll(visit)

    poll = Visit.poll
    monkeypatch.setattr(Visit, "poll", counted)
    server.replies.append(error_reply(429, "overloaded", retry_after="0.5"))
    make_client(server.url, retry=QUICK).generate("x")
    assert num_polls < 10


def test_04_retry_after_date(server: TgiServer) -> None:
    there = datetime.now(UTC) - timedelta(hours=3)
    dates = {"date": format_datetime(there, usegmt=True)}
    dates["retry-after"] = format_datetime(there + timedelta(seconds=1), usegmt=True)
    server.replies.append(Reply(503, headers=dates))
    with Client(server.url, retry=QUICK, environment={}) as client:
        client.generate("x")
    first, second = (seen.at for seen in server.posts)
    assert 1.0 <= second - first < 100


def test_04_retry_after_garbage_means_backoff(server: TgiServer, make_client: MakeClient) -> None:
    server.replies.append(error_reply(429, "overloaded", retry_after="after lunch"))
    policy = RetryPolicy(initial_delay=0.2, jitter=0)
    make_client(server.url, retry=policy).generate("x")
    first, second = (seen.at for seen in server.posts)
    assert 0.2 <= second - first < 100


def test_04_a_429_pauses_the_whole_endpoint(server: TgiServer) -> None:
    """Requests in the line must not be sent into a server that has just asked for a rest."""
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    gate = threading.Event()
    server.replies.append(Reply(429, headers={"retry-after": "0.5"}, hold=gate))
    with Client(pool=pool, retry=QUICK, environment={}) as client, ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.generate, "x") for _ in range(4)]
        wait_until(lambda: pool.stats().global_queue_size == 3)
        gate.set()
        assert [call.result().generated_text for call in calls] == [text(3)] * 4
    first, *others = (seen.at for seen in server.posts)
    assert min(others) - first >= 0.5
    assert len(others) == 4
    assert_idle(pool)


def test_04_the_pause_ends_though_the_request_that_caused_it_gave_up(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    gate = threading.Event()
    server.replies.append(Reply(429, headers={"retry-after": "0.3"}, hold=gate))
    with Client(pool=pool, environment={}) as client, ThreadPoolExecutor(2) as threads:
        failing = threads.submit(client.generate, "x", max_retries=0)
        wait_until(lambda: len(server.posts) == 1)
        waiting = threads.submit(client.generate, "y")
        wait_until(lambda: pool.stats().global_queue_size == 1)
        gate.set()
        with pytest.raises(RateLimitError):
            failing.result()
        assert waiting.result().generated_text == text(3)
    assert server.posts[1].at - server.posts[0].at >= 0.3


def test_05_a_retry_after_above_the_cap_raises_at_once(server: TgiServer, make_client: MakeClient) -> None:
    server.replies.append(error_reply(429, "overloaded", retry_after="3600"))
    began = time.monotonic()
    with pytest.raises(OverloadedError) as caught:
        make_client(server.url).generate("x")
    assert time.monotonic() - began < 30
    assert caught.value.retry_after_s == 3600
    assert len(server.posts) == 1


@pytest.mark.parametrize("fault", ["5xx", "cut", "refused"])
def test_05_faults_of_the_server_are_retried(server: TgiServer, make_client: MakeClient, fault: str) -> None:
    client = make_client(server.url, retry=QUICK)
    if fault == "5xx":
        server.replies += [error_reply(503, "healthcheck"), error_reply(500, "incomplete_generation")]
    elif fault == "cut":
        server.replies += [Reply(pieces=(b'{"generated',), cut=True)] * 2
    else:
        server.stop()
        with pytest.raises(APIConnectionError) as caught:
            client.generate("x")
        assert caught.value.attempts == 3
        return
    result = client.generate("x")
    assert result.generated_text == text(3)
    assert result.response.attempts == 3


def test_05_a_failed_generation_is_repeated_once(server: TgiServer, make_client: MakeClient) -> None:
    server.replies += [error_reply(424, "generation")] * 3
    with pytest.raises(GenerationError):
        make_client(server.url, retry=RetryPolicy(max_retries=5, initial_delay=0.01)).generate("x")
    assert len(server.posts) == 2


# 6, 7, 8: the line


def queue_up(
    server: TgiServer, pool: EndpointPool, starters: list[Callable[[], object]], *, release: threading.Event
) -> None:
    """Start one by one, each once the one before stands in the line; then let the server answer."""
    for position, start in enumerate(starters):
        start()
        if position == 0:
            wait_until(lambda: pool.stats().global_current_requests == 1 and len(server.posts) == 1)
        else:
            wait_until(lambda position=position: pool.stats().global_queue_size == position)  # type: ignore[misc]
    release.set()


def prompts_seen(server: TgiServer) -> list[int]:
    return [int(seen.body["inputs"]) for seen in server.posts]


def test_06_fifo_threads(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    with Client(pool=pool, environment={}) as client, server.held() as gate, ThreadPoolExecutor(50) as threads:
        starters = [lambda n=n: threads.submit(client.generate, str(n)) for n in range(50)]  # type: ignore[misc]
        queue_up(server, pool, starters, release=gate)
    assert prompts_seen(server) == list(range(50))
    assert server.max_at_once == 1
    assert_idle(pool)


async def test_06_fifo_asyncio(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    async with AsyncClient(pool=pool, environment={}) as client:
        with server.held():
            tasks = []
            for number in range(50):
                tasks.append(asyncio.create_task(client.generate(str(number))))
                await asyncio.sleep(0)
        finished: list[int] = []
        for number, task in enumerate(tasks):
            task.add_done_callback(lambda _, number=number: finished.append(number))  # type: ignore[misc]
        await asyncio.gather(*tasks)
    assert prompts_seen(server) == finished == list(range(50))
    assert_idle(pool)


def test_06_fifo_threads_and_event_loops_mixed(server: TgiServer) -> None:
    """Two threads' clients and two event loops' clients stand in one line."""
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    loops = [asyncio.new_event_loop() for _ in range(2)]
    loop_threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in loop_threads:
        thread.start()
    clients = [AsyncClient(pool=pool, environment={}) for _ in loops]
    calls: list[Any] = []
    with Client(pool=pool, environment={}) as client, server.held() as gate, ThreadPoolExecutor(25) as threads:

        def start(number: int) -> None:
            if number % 2:
                calls.append(threads.submit(client.generate, str(number)))
            else:
                which = number // 2 % 2
                coroutine = clients[which].generate(str(number))
                calls.append(asyncio.run_coroutine_threadsafe(coroutine, loops[which]))

        queue_up(server, pool, [lambda n=n: start(n) for n in range(50)], release=gate)  # type: ignore[misc]
        assert [call.result(30).generated_text for call in calls] == [text(3)] * 50
    for loop, async_client, thread in zip(loops, clients, loop_threads, strict=True):
        asyncio.run_coroutine_threadsafe(async_client.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert prompts_seen(server) == list(range(50))
    assert server.max_at_once == 1
    assert_idle(pool)


def test_06_priority_goes_first(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    with Client(pool=pool, environment={}) as client, server.held() as gate, ThreadPoolExecutor(5) as threads:
        starters = [
            lambda n=n, p=p: threads.submit(client.generate, str(n), priority=p)  # type: ignore[misc]
            for n, p in enumerate([0, 1, 1, 0, -1])
        ]
        queue_up(server, pool, starters, release=gate)
    assert prompts_seen(server) == [0, 4, 3, 1, 2]


def test_06_a_retried_request_keeps_its_place(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    gate = threading.Event()
    server.replies.append(Reply(503, hold=gate, headers={"retry-after": "0.05"}))
    with Client(pool=pool, retry=QUICK, environment={}) as client, ThreadPoolExecutor(4) as threads:
        starters = [lambda n=n: threads.submit(client.generate, str(n)) for n in range(4)]  # type: ignore[misc]
        queue_up(server, pool, starters, release=gate)
    assert prompts_seen(server) == [0, 0, 1, 2, 3]


def test_07_one_more_than_the_queue_holds_raises_at_once(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1, queue_size=3)])
    with Client(pool=pool, environment={}) as client, server.held() as gate, ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.generate, "x") for _ in range(4)]
        wait_until(lambda: pool.stats().global_queue_size == 3)
        with pytest.raises(QueueFullError, match=r"Request queue is full \(3 items\)"):
            client.generate("x")
        gate.set()
        for call in calls:
            call.result()
    assert len(server.posts) == 4
    assert pool.stats().queue_rejected == 1
    assert_idle(pool)


def test_08_a_queue_timeout_leaves_the_line_and_the_server_never_knows(
    server: TgiServer, make_client: MakeClient
) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1, queue_timeout=0.1)])
    with Client(pool=pool, environment={}) as holder, server.held() as gate, ThreadPoolExecutor(1) as threads:
        holding = threads.submit(holder.generate, "holds the slot")
        wait_until(lambda: len(server.posts) == 1)
        waiting = make_client(pool=pool)
        with pytest.raises(QueueTimeoutError, match=r"no slot became free within 0\.1 s") as caught:
            waiting.generate("waits")
        assert caught.value.attempts == 0
        assert pool.stats().global_queue_size == 0
        gate.set()
        holding.result()
    assert [seen.body["inputs"] for seen in server.posts] == ["holds the slot"]
    assert pool.stats().queue_timeouts == 1
    assert_idle(pool)


def test_08_the_deadline_covers_the_line_too(server: TgiServer, make_client: MakeClient) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    with Client(pool=pool, environment={}) as holder, server.held() as gate, ThreadPoolExecutor(1) as threads:
        threads.submit(holder.generate, "holds the slot")
        wait_until(lambda: len(server.posts) == 1)
        with pytest.raises(APITimeoutError) as caught:
            make_client(pool=pool).generate("waits", deadline=0.1)
        assert caught.value.phase == "deadline"
        gate.set()
    assert pool.stats().endpoints[pool.ids[0]].breaker_state == "closed"


@pytest.mark.parametrize("stream", [False, True])
def test_08_the_deadline_covers_attempts_and_sleeps(server: TgiServer, make_client: MakeClient, stream: bool) -> None:
    client = make_client(server.url, retry=RetryPolicy(max_retries=1000, initial_delay=0.02, factor=1, jitter=0))
    server.handler = lambda seen: Reply(503)
    began = time.monotonic()
    with pytest.raises(TGIError):
        client.generate("x", deadline=1.5, stream=stream)
    assert time.monotonic() - began < 100
    assert 1 < len(server.posts) < 1000


@pytest.mark.parametrize("stream", [False, True])
def test_08_the_deadline_covers_an_answer_that_trickles(
    server: TgiServer, make_client: MakeClient, stream: bool
) -> None:
    """Every read comes in time, the whole never does."""
    headers = {"content-type": "text/event-stream"}
    server.replies.append(Reply(pieces=(b" ",) * 1000, headers=headers, is_stream=True, period_s=0.02))
    with pytest.raises(APITimeoutError) as caught:
        make_client(server.url).generate("x", deadline=0.2, stream=stream)
    assert caught.value.phase == "deadline"


# 9, 10: what is held is given back


async def test_09_cancelling_frees_slot_and_connection(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])
    async with AsyncClient(pool=pool, environment={}) as client:
        with server.held():
            running = asyncio.create_task(client.generate("runs"))
            waiting = asyncio.create_task(client.generate("waits"))
            await asyncio.to_thread(server.wait_for, lambda: len(server.posts) == 1)
            for task in (waiting, running):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await asyncio.to_thread(server.wait_for, lambda: server.num_disconnects == 1)
        assert_idle(pool)
        assert pool.stats().cancelled == 2
        assert (await client.generate("after")).generated_text == text(3)
    assert [seen.body["inputs"] for seen in server.posts] == ["runs", "after"]


async def test_09_cancelling_a_stream_between_events(server: TgiServer) -> None:
    gate = threading.Event()
    server.replies.append(stream_reply(sse(events("x", {})), hold=gate, hold_after=1))
    async with AsyncClient(server.url, environment={}) as client:
        stream = await client.generate("x", stream=True)

        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(server.wait_for, lambda: server.num_disconnects == 1)
        assert_idle(client.pool)


def test_09_a_loop_that_ends_with_requests_under_way_holds_nothing(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, max_concurrent=1)])

    async def start() -> None:
        client = AsyncClient(pool=pool, environment={})
        for prompt in ("runs", "waits"):
            asyncio.create_task(client.generate(prompt))  # noqa: RUF006
        await asyncio.to_thread(server.wait_for, lambda: len(server.posts) == 1)

    with server.held():
        asyncio.run(start())
    assert_idle(pool)


@pytest.mark.parametrize("how", ["close", "with", "garbage", "cycle"])
def test_10_leaving_a_stream_half_way_frees_the_slot(server: TgiServer, how: str) -> None:
    gate = threading.Event()
    server.handler = lambda seen: stream_reply(sse(events("x", {"max_new_tokens": 9})), hold=gate, hold_after=2)
    with Client(Endpoint(server.url, max_concurrent=1), environment={}) as client:
        stream = client.generate("x", stream=True)
        assert next(stream).text == text(1)
        assert client.stats().global_current_requests == 1
        if how == "close":
            stream.close()
            stream.close()
        elif how == "with":
            with stream:
                pass
        elif how == "cycle":
            cycle: list[Any] = [stream]
            cycle.append(cycle)
            del cycle
        del stream
        gc.collect()
        assert_idle(client.pool)
        assert client.stats().cancelled == 1
        server.wait_for(lambda: server.num_disconnects == 1)
        gate.set()


@pytest.mark.parametrize("how", ["close", "with", "garbage"])
async def test_10_leaving_an_async_stream_half_way_frees_the_slot(server: TgiServer, how: str) -> None:
    gate = threading.Event()
    server.handler = lambda seen: stream_reply(sse(events("x", {"max_new_tokens": 9})), hold=gate, hold_after=2)
    async with AsyncClient(Endpoint(server.url, max_concurrent=1), environment={}) as client:
        stream = await client.generate("x", stream=True)
        async for event in stream:
            assert event.text == text(1)
            break
        if how == "close":
            await stream.close()
        elif how == "with":
            async with stream:
                pass
        del stream
        gc.collect()
        assert_idle(client.pool)
        await asyncio.to_thread(server.wait_for, lambda: server.num_disconnects == 1)
        gate.set()


def test_10_a_stream_read_to_its_end_frees_the_slot_and_keeps_the_connection(
    server: TgiServer, make_client: MakeClient
) -> None:
    client = make_client(Endpoint(server.url, max_concurrent=1))
    for _ in range(3):
        assert "".join(client.generate("x", stream=True).text_deltas()) == text(3)
        assert client.chat("x", stream=True).final().text == text(3)
    assert_idle(client.pool)
    assert client.stats().successful_requests == 6
    assert server.num_connections == 1


# 11, 12: numbers


async def test_11_stats_after_a_storm_equal_the_servers_own(server: TgiServer) -> None:
    """Seeded storm of successes, every kind of failure, streams, broken-off streams and cancelled calls."""
    rng = random.Random(5)
    faults: list[Reply] = [
        error_reply(429, "overloaded"),
        error_reply(500, "incomplete_generation"),
        error_reply(422, "validation"),
        Reply(401),
        Reply(pieces=(b"{",), cut=True),
        stream_reply(sse([{"error": "m", "error_type": "overloaded"}])),
    ]
    server.handler = lambda seen: tgi(seen) if rng.random() < 0.6 or seen.method == "GET" else rng.choice(faults)
    servers_retry = RetryPolicy(max_retries=1, initial_delay=0.001)
    no_breaker = BreakerPolicy(failure_threshold=None)
    settings: dict[str, Any] = {"max_concurrent": 3, "queue_size": 40, "breaker": no_breaker}
    endpoints = [Endpoint(server.url, id=f"e{n}", api_key=f"k{n}", **settings) for n in range(3)]
    pool = EndpointPool(endpoints)
    outcomes: Counter[str] = Counter()

    async def call(client: AsyncClient, number: int) -> None:
        try:
            match number % 5:
                case 0:
                    async with await client.generate("x", stream=True) as stream:
                        async for _ in stream:
                            if number % 2:
                                break
                case 1:
                    async with asyncio.timeout(0.05 * (number % 3)):
                        await client.chat("x")
                case _:
                    await client.generate("x")
            outcomes["done"] += 1
        except (TGIError, TimeoutError) as error:
            outcomes[type(error).__name__] += 1

    async with AsyncClient(pool=pool, retry=servers_retry, environment={}) as client:
        await asyncio.gather(*(call(client, number) for number in range(150)))
        await asyncio.sleep(0)
    stats = pool.stats()
    assert_idle(pool)
    assert outcomes["done"] > 20
    assert len(outcomes) > 4, outcomes
    for id, endpoint in stats.endpoints.items():
        arrived = [seen for seen in server.posts if seen.key == pool.get(id).api_key]
        total = endpoint.successful_requests + endpoint.failed_requests
        assert endpoint.total_requests == total
        # A call cancelled while it was connecting is an attempt that the server never saw.
        assert 0 <= endpoint.attempts - len(arrived) <= endpoint.cancelled
    assert stats.total_requests == 150
    # A 429 that comes as a stream's event has status 200 on the wire.
    events_429 = stats.rate_limited - server.statuses[429]
    assert 0 <= events_429 <= server.statuses[200]


def test_11_retries_and_attempts_equal_what_arrived(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url, retry=QUICK)
    server.replies += [error_reply(429, "overloaded"), Reply(503), tgi, Reply(500), tgi, Reply(422), tgi]
    for _ in range(3):
        with contextlib.suppress(ValidationError):
            client.generate("x")
    client.generate("x", stream=True).final()
    stats = client.stats()
    assert stats.attempts == len(server.posts) == 7
    assert (stats.total_requests, stats.successful_requests, stats.failed_requests) == (4, 3, 1)
    assert (stats.retries, stats.rate_limited, stats.streams) == (3, server.statuses[429], 1)
    assert stats.errors_by_type == {"ValidationError": 1}
    assert stats.latency.count == 3


def test_12_token_counts_are_the_servers(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    prompt = "three words here"
    results = [
        client.generate(prompt, max_new_tokens=5),
        client.generate(prompt, max_new_tokens=5, details=False),
        client.generate(prompt, max_new_tokens=5, stream=True).final(),
        client.chat(prompt, max_tokens=5),
        client.chat(prompt, max_tokens=5, stream=True, stream_options={"include_usage": True}).final(),
    ]
    assert num_prompt_tokens(prompt) == 3
    assert [(r.usage.prompt_tokens, r.usage.completion_tokens, r.usage.total_tokens) for r in results] == [
        (3, 5, 8)
    ] * 5
    stats = client.stats()
    assert (stats.input_tokens, stats.output_tokens, stats.total_tokens) == (15, 25, 40)


def test_12_unknown_counts_are_none_not_a_guess(server: TgiServer, make_client: MakeClient) -> None:
    server.replies.append(json_reply([{"generated_text": "some text"}]))
    usage = make_client(server.url).generate("x", details=False).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (None, None, None)


# 13: request ids


def test_13_one_id_for_all_attempts(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url, retry=QUICK)
    server.replies += [Reply(503), Reply(503)]
    result = client.generate("x", request_id="mine")
    assert [seen.headers["x-request-id"] for seen in server.posts] == ["mine"] * 3
    assert [seen.headers.get("x-retry-count") for seen in server.posts] == [None, "1", "2"]
    assert result.response.request_id == "mine"


def test_13_ids_of_equal_calls_differ(server: TgiServer) -> None:
    """An id made of the time and the payload collides for equal calls within a second."""
    with Client(server.url, environment={}) as client:
        ids = {client._new_request_id() for _ in range(10_000)}
        assert len(ids) == 10_000
        sent = [client.generate("same").response.request_id for _ in range(20)]
    assert [seen.headers["x-request-id"] for seen in server.posts] == sent
    assert len(set(sent)) == 20


def test_13_the_id_is_on_events_and_errors(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url, request_id_factory=lambda: "made")
    assert {event.response.request_id for event in client.generate("x", stream=True)} == {"made"}
    server.replies.append(Reply(422))
    with pytest.raises(ValidationError) as caught:
        client.generate("x", request_id="mine")
    assert (caught.value.request_id, caught.value.endpoint) == ("mine", client.pool.ids[0])


# 14, 15: streams


def test_14_a_stream_cut_into_bytes(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(server.url)
    whole = b"".join(sse(events("x", {"max_new_tokens": 4})))
    server.replies.append(stream_reply([whole[i : i + 1] for i in range(len(whole))]))
    in_bytes = list(client.generate("x", stream=True))
    in_lines = list(client.generate("x", stream=True, max_new_tokens=4))
    assert [event.text for event in in_bytes] == [event.text for event in in_lines] == [" one", " twö", " 三", " 🙂"]
    assert in_bytes[-1].generated_text == text(4)


def test_14_old_framing_keep_alives_and_done(server: TgiServer, make_client: MakeClient) -> None:
    """TGI 0.9 writes no space after the colon; keep-alives are comments; a [DONE] ends some streams."""
    lines = sse(events("x", {}), prefix="data:")
    pieces = [b":\n\n", lines[0], b": still here\r\n\r\n", *(line.replace(b"\n", b"\r\n") for line in lines[1:])]
    server.replies += [stream_reply(pieces), stream_reply([*pieces, b"data: [DONE]\n\n"])]
    client = make_client(server.url)
    for _ in range(2):
        stream = client.generate("x", stream=True)
        assert "".join(event.text for event in stream) == text(3)
        assert stream.final().generated_text == text(3)
    assert_idle(client.pool)


def test_15_an_error_event_in_mid_stream_raises_after_what_came_before(
    server: TgiServer, make_client: MakeClient
) -> None:
    first, *_ = sse(events("x", {}))
    failure = sse([{"error": "Request failed during generation: boom", "error_type": "generation"}])
    server.replies.append(stream_reply([first + failure[0]]))
    client = make_client(server.url, retry=QUICK)
    stream = client.generate("x", stream=True)
    received = []
    with pytest.raises(GenerationError, match="boom") as caught:
        received.extend(event.text for event in stream)
    assert received == [text(1)]
    assert caught.value.error_type == "generation"
    assert caught.value.request_id == server.posts[0].headers["x-request-id"]
    assert len(server.posts) == 1, "repeated though a token had been shown"
    assert_idle(client.pool)


@pytest.mark.parametrize("how", ["cut", "ended"])
def test_15_a_stream_without_its_end_raises_with_the_partial_text(
    server: TgiServer, make_client: MakeClient, how: str
) -> None:
    pieces = sse(events("x", {"max_new_tokens": 4}))[:2]
    server.replies.append(stream_reply(pieces, cut=how == "cut"))
    client = make_client(server.url, retry=QUICK)
    stream = client.generate("x", stream=True)
    with pytest.raises(IncompleteStreamError) as caught:
        list(stream)
    assert caught.value.partial_text == text(2)
    assert len(server.posts) == 1
    assert client.stats().errors_by_type == {"IncompleteStreamError": 1}
    with pytest.raises(IncompleteStreamError):
        stream.final()
    assert_idle(client.pool)


def test_15_a_chat_stream_without_its_end(server: TgiServer, make_client: MakeClient) -> None:
    chunk = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "so far"}, "finish_reason": None}]}
    server.replies.append(stream_reply(sse([chunk], done=True)))
    with pytest.raises(IncompleteStreamError) as caught:
        list(make_client(server.url).chat("x", stream=True))
    assert caught.value.partial_text == "so far"


@pytest.mark.parametrize(
    "failing",
    [
        stream_reply(sse([{"error": "Model is overloaded", "error_type": "overloaded"}])),
        stream_reply([b":\n\n"], cut=True),
        stream_reply([]),
        error_reply(503, "healthcheck"),
    ],
    ids=["error event", "cut", "empty", "status"],
)
def test_15_a_stream_that_fails_before_its_first_event_is_repeated(
    server: TgiServer, make_client: MakeClient, failing: Reply
) -> None:
    server.replies += [failing, failing]
    client = make_client(server.url, retry=QUICK)
    stream = client.generate("x", stream=True)
    assert stream.response.attempts == 3
    assert "".join(stream.text_deltas()) == text(3)
    assert_idle(client.pool)


def test_15_a_slow_stream_that_times_out_tells_what_came(server: TgiServer, make_client: MakeClient) -> None:
    gate = threading.Event()
    server.replies.append(stream_reply(sse(events("x", {})), hold=gate, hold_after=1))
    client = make_client(server.url, timeout=0.5)
    with pytest.raises(IncompleteStreamError) as caught:
        list(client.generate("x", stream=True))
    gate.set()
    assert caught.value.partial_text == text(1)
    assert isinstance(caught.value.__cause__, APITimeoutError)


# 16, 17: the breaker and the pool


def test_16_the_breaker_opens_for_the_servers_faults_only(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(Endpoint(server.url, breaker=BreakerPolicy(failure_threshold=3)), max_retries=0)
    server.replies += [Reply(status) for status in (422, 401, 429, 400, 404, 424) * 3]
    for _ in range(18):
        with pytest.raises(TGIError):
            client.generate("x")
    server.replies += [Reply(500), Reply(503), Reply(pieces=(b"{",), cut=True)]
    for _ in range(3):
        with pytest.raises(TGIError) as caught:
            client.generate("x")
        assert not isinstance(caught.value, CircuitOpenError)
    with pytest.raises(CircuitOpenError) as refused:
        client.generate("x")
    assert 0 < refused.value.retry_in_s <= 30
    assert refused.value.attempts == 0
    assert len(server.posts) == 21
    assert client.stats().endpoints[client.pool.ids[0]].breaker_state == "open"


def test_16_a_deadline_of_the_callers_is_no_fault_of_the_server(server: TgiServer, make_client: MakeClient) -> None:
    client = make_client(Endpoint(server.url, breaker=BreakerPolicy(failure_threshold=1)))
    with server.held(), pytest.raises(APITimeoutError):
        client.generate("x", deadline=0.05)
    assert client.generate("x").generated_text == text(3)


async def test_16_half_open_admits_exactly_one_probe(server: TgiServer) -> None:
    pool = EndpointPool([Endpoint(server.url, breaker=BreakerPolicy(failure_threshold=1, cooldown_s=0.05))])
    server.replies.append(Reply(500))
    async with AsyncClient(pool=pool, max_retries=0, environment={}) as client:
        with pytest.raises(ServerError):
            await client.generate("x")
        await asyncio.sleep(0.06)
        with server.held() as gate:
            tasks = [asyncio.create_task(client.generate("x")) for _ in range(10)]
            await asyncio.to_thread(server.wait_for, lambda: len(server.posts) == 2)
            await asyncio.wait(tasks[1:])
            gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["GenerateResult"] + ["CircuitOpenError"] * 9
        assert len(server.posts) == 2
        await client.generate("x")
    assert_idle(pool)


def test_17_the_pool_skips_a_dead_endpoint_and_returns_to_it(make_client: MakeClient) -> None:
    passed = 0.0
    with TgiServer() as dead, TgiServer() as alive:
        breaker = BreakerPolicy(failure_threshold=1, cooldown_s=1000)
        endpoints = [Endpoint(dead.url, id="dead", breaker=breaker), Endpoint(alive.url, id="alive", breaker=breaker)]
        pool = EndpointPool(endpoints, clock=lambda: time.monotonic() + passed)
        client = make_client(pool=pool, retry=QUICK)
        dead.stop()
        used = [client.generate("x").response.endpoint for _ in range(6)]
        assert used == ["alive"] * 6
        stats = client.stats()
        assert stats.endpoints["dead"].attempts == 1
        assert stats.endpoints["dead"].failovers == 1
        assert (stats.total_requests, stats.successful_requests, stats.failed_requests) == (6, 6, 0)
        with TgiServer(port=dead.port) as revived:
            assert client.generate("x").response.endpoint == "alive"
            passed = 1001.0
            used = [client.generate("x").response.endpoint for _ in range(6)]
            assert "dead" in used
            assert len(revived.posts) == used.count("dead")


def test_17_failover_is_at_once_and_counts_as_an_attempt(server: TgiServer, make_client: MakeClient) -> None:
    with TgiServer(lambda seen: error_reply(429, "overloaded", retry_after="60")) as busy:
        pool = EndpointPool([Endpoint(busy.url, id="busy"), Endpoint(server.url, id="free")], "first")
        began = time.monotonic()
        result = make_client(pool=pool).generate("x")
        assert time.monotonic() - began < 55
        assert (result.response.endpoint, result.response.attempts) == ("free", 2)
        assert make_client(pool=pool).generate("x").response.attempts == 1, "asked the endpoint that wants a rest"


def test_17_where_the_others_are_full_the_own_endpoint_is_tried_again(
    server: TgiServer, make_client: MakeClient
) -> None:
    full = Endpoint(server.url, id="full", max_concurrent=1, queue_enabled=False)
    answers = [Reply(503), tgi]
    with TgiServer(lambda seen: (lambda r: r(seen) if callable(r) else r)(answers.pop(0))) as weak:
        pool = EndpointPool([Endpoint(weak.url, id="weak"), full], "first")
        holder = Client(pool=pool, environment={})
        with server.held() as gate, ThreadPoolExecutor(1) as thread:
            holding = thread.submit(holder.generate, "x", endpoint="full")
            server.wait_for(lambda: len(server.posts) == 1)
            result = make_client(pool=pool, retry=QUICK).generate("x")
            assert (result.response.endpoint, result.response.attempts) == ("weak", 2)
            gate.set()
            holding.result()
        holder.close()
    assert pool.stats().queue_rejected == 0
    assert_idle(pool)


def test_16_a_call_that_opens_the_breaker_names_the_fault(server: TgiServer, make_client: MakeClient) -> None:
    server.handler = lambda seen: Reply(502)
    client = make_client(Endpoint(server.url, breaker=BreakerPolicy(failure_threshold=2)), retry=QUICK)
    with pytest.raises(CircuitOpenError) as caught:
        client.generate("x")
    assert isinstance(caught.value.__cause__, ServerError)
    assert caught.value.attempts == 2


def test_17_a_pinned_request_does_not_fail_over(server: TgiServer, make_client: MakeClient) -> None:
    with TgiServer(lambda seen: Reply(503)) as broken:
        pool = EndpointPool([Endpoint(broken.url, id="broken"), Endpoint(server.url, id="well")])
        with pytest.raises(ServerError):
            make_client(pool=pool, retry=QUICK).generate("x", endpoint="broken")
        assert len(broken.posts) == 3
    assert server.posts == []


def test_17_users_faults_do_not_fail_over(server: TgiServer, make_client: MakeClient) -> None:
    with TgiServer(lambda seen: error_reply(422, "validation")) as strict:
        pool = EndpointPool([Endpoint(strict.url), Endpoint(server.url)], "first")
        with pytest.raises(ValidationError):
            make_client(pool=pool).generate("x")
    assert server.posts == []


def test_17_nothing_fails_over_once_a_token_was_shown(server: TgiServer, make_client: MakeClient) -> None:
    with TgiServer(lambda seen: stream_reply(sse(events("x", {}))[:1], cut=True)) as cutting:
        pool = EndpointPool([Endpoint(cutting.url), Endpoint(server.url)], "first")
        with pytest.raises(IncompleteStreamError):
            list(make_client(pool=pool, retry=QUICK).generate("x", stream=True))
    assert server.posts == []


def test_17_health_takes_out_and_brings_back(server: TgiServer, make_client: MakeClient) -> None:
    with TgiServer() as other:
        pool = EndpointPool([Endpoint(server.url, id="a"), Endpoint(other.url, id="b")], "first")
        client = make_client(pool=pool)
        server.handler = lambda seen: Reply(503)
        assert client.check_endpoints() == {"a": False, "b": True}
        assert client.generate("x").response.endpoint == "b"
        assert server.posts == []
        server.handler = tgi
        assert client.check_endpoints() == {"a": True, "b": True}
        assert client.generate("x").response.endpoint == "a"


# 18: silence


def test_18_nothing_is_printed_and_no_key_shows(
    server: TgiServer, make_client: MakeClient, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = "hf_sesame_open"
    client = make_client(server.url, api_key=key, retry=QUICK)

    def echo(seen: Seen) -> Reply:
        return error_reply(401, "x", f"key {seen.key} is wrong")

    shown: list[object] = [client.generate(f"my key is {key}"), client.stats(), client.pool]
    server.replies += [Reply(503), echo, stream_reply(sse([{"error": f"no {key}", "error_type": "validation"}]))]
    for stream in (False, True):
        with pytest.raises(TGIError) as caught:
            client.generate("x", stream=stream)
        shown += [caught.value, caught.value.__dict__, repr(caught.value), caught.value.__cause__]
    server.stop()
    with pytest.raises(APIConnectionError) as broken:
        client.generate("x")
    shown += [broken.value, repr(broken.value), repr(broken.value.__cause__)]
    output = capfd.readouterr()
    assert output.out == output.err == ""
    ours = [record for record in caplog.records if record.name.startswith("segue")]
    assert any(getattr(record, "request_id", None) for record in ours)
    assert "sesame" not in caplog.text
    assert "sesame" not in repr(client)
    assert not [value for value in shown if "sesame" in f"{value} {value!r}"]


def test_18_debug_logs_to_stderr_without_keys(server: TgiServer) -> None:
    logger = logging.getLogger("segue.client")
    handlers, level = logger.handlers[:], logger.level
    try:
        logger.handlers.clear()
        with Client(server.url, api_key="hf_sesame", environment={"HF_TGI_DEBUG": "1"}) as client:
            [handler] = logger.handlers
            assert isinstance(handler, logging.StreamHandler)
            stderr = handler.setStream(io.StringIO())
            assert stderr is not None
            client.generate("what is asked")
            log = handler.stream.getvalue()
        Client(server.url, environment={"HF_TGI_DEBUG": "1"}).close()
        assert len(logger.handlers) == 1, "a handler for each client would log every line twice"
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    assert "what is asked" in log
    assert "generated_text" in log
    assert "sesame" not in log
