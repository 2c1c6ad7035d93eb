"""What goes over the connection besides the events' text: pieces, silence, clients that leave."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from serving import Connection, Serving, says, until

from segue.server.sinks import Events, EventSink, merge
from segue.server.stream import EventStream, unless_client_leaves

Serve = Callable[..., Serving]

STREAMS = [
    ("/generate_stream", {"inputs": "a"}),
    ("/", {"inputs": "a", "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stream": True}),
    ("/v1/completions", {"prompt": "a", "stream": True}),
]
AT_ONCE = [
    ("/generate", {"inputs": "a"}),
    ("/", {"inputs": "a"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ("/v1/completions", {"prompt": "a"}),
]


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_the_tokens_of_a_step_go_out_in_one_write(serve: Serve, path: str, body: Any) -> None:
    connection = Connection(serve(script=says("abcdefg", tokens_a_step=4)).app, path, body)
    await connection.task
    first, second, last = connection.writes
    assert (first.count(b"data: "), second.count(b"data: ")) == (4, 4)
    assert last == (b"data: [DONE]\n\n" if "/v1/" in path else b"")


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_H10_a_stream_whose_client_leaves_is_aborted(serve: Serve, path: str, body: Any) -> None:
    app = serve(max_concurrent_requests=1)
    connection = Connection(app.app, path, body)
    await connection.until_writes(1)
    app.engine.gate.clear()
    await connection.leave()
    assert app.engine.aborted == [app.engine.requests[0].request_id]
    assert await app.metric('tgi_request_failure{err="dropped"}') == 1
    app.engine.gate.set()
    assert (await app.post("/generate", {"inputs": "a"})).status_code == 200


@pytest.mark.parametrize(("path", "body"), AT_ONCE)
async def test_H10_an_answer_whose_client_leaves_is_aborted(serve: Serve, path: str, body: Any) -> None:
    app = serve(max_concurrent_requests=1)
    app.engine.gate.clear()
    connection = Connection(app.app, path, body)
    await until(lambda: len(app.engine.requests) == 1)
    await connection.leave()
    await until(lambda: len(app.engine.aborted) == 1)
    assert connection.messages == []
    assert await app.metric('tgi_request_failure{err="dropped"}') == 1
    app.engine.gate.set()
    assert (await app.post("/generate", {"inputs": "a"})).status_code == 200


async def test_H10_all_prompts_and_all_of_best_of_are_aborted(serve: Serve) -> None:
    app = serve()
    app.engine.gate.clear()
    for path, body in (
        ("/generate", {"inputs": "a", "parameters": {"best_of": 2, "do_sample": True}}),
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/completions", {"prompt": ["a", "b"], "stream": True}),
    ):
        app.engine.requests.clear()
        app.engine.aborted.clear()
        connection = Connection(app.app, path, body)
        await until(lambda: len(app.engine.requests) == 2)
        await connection.leave()
        await until(lambda: len(app.engine.aborted) == 2)
        assert sorted(app.engine.aborted) == sorted(request.request_id for request in app.engine.requests)


async def test_H10_a_client_that_leaves_with_the_last_event_was_not_dropped(serve: Serve) -> None:
    app = serve(script=says("abc"))
    connection = Connection(app.app, "/generate_stream", {"inputs": "a"})
    await connection.until_writes(4)
    await connection.leave()
    assert await app.metric('tgi_request_failure{err="dropped"}') == 0
    assert await app.metric("tgi_request_success") == 1
    assert app.engine.aborted == []


def events_after(gate: asyncio.Event, closed: list[bool]) -> Events:
    async def write(sink: EventSink) -> None:
        try:
            sink.write(b"data: 1\n\n")
            await sink.drain()
            await gate.wait()
            sink.write(b"data: 2\n\n")
        finally:
            closed.append(True)

    return write


async def test_H8_a_comment_breaks_the_silence() -> None:
    gate, closed = asyncio.Event(), list[bool]()
    stream = EventStream(events_after(gate, closed), {"x-a": "b"}, last=b"data: [DONE]\n\n", keep_alive_s=0.001)
    connection = Connection(stream, "/", {})
    writes = await connection.until_writes(4)
    assert writes[:4] == [b"data: 1\n\n", b":\n\n", b":\n\n", b":\n\n"]
    gate.set()
    await connection.task
    assert connection.writes[-2:] == [b"data: 2\n\n", b"data: [DONE]\n\n"]
    assert connection.messages[0]["headers"] == [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        (b"x-a", b"b"),
    ]
    assert [each.get("more_body") for each in connection.messages[1:]] == [True] * (len(connection.writes) - 1) + [
        False
    ]


async def test_H8_no_comment_before_its_time() -> None:
    gate, closed = asyncio.Event(), list[bool]()
    connection = Connection(EventStream(events_after(gate, closed), {}), "/", {})
    await connection.until_writes(1)
    gate.set()
    await connection.task
    assert connection.writes == [b"data: 1\n\n", b"data: 2\n\n", b""]


async def test_events_are_closed_when_the_client_leaves() -> None:
    closed: list[bool] = []
    connection = Connection(EventStream(events_after(asyncio.Event(), closed), {}), "/", {})
    await connection.until_writes(1)
    await connection.leave()
    assert closed == [True]


async def test_events_are_closed_when_the_server_cancels_the_request() -> None:
    closed: list[bool] = []
    connection = Connection(EventStream(events_after(asyncio.Event(), closed), {}), "/", {})
    await connection.until_writes(1)
    connection.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connection.task
    assert closed == [True]


class SlowSink:
    """Full from a write on, until ``gate`` lets it drain."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.writes: list[bytes] = []
        self.is_full = False

    def write(self, events: bytes) -> None:
        self.writes.append(events)
        self.is_full = True

    async def drain(self) -> None:
        await self.gate.wait()
        self.is_full = False


async def test_a_slow_client_is_not_sent_each_step_by_itself() -> None:
    """What several streams gave meanwhile is one write, and none of them runs ahead of the client."""
    given: list[str] = []

    def counted(name: str) -> Events:
        async def write(sink: EventSink) -> None:
            for number in range(3):
                await asyncio.sleep(0)
                given.append(f"{name}{number}")
                sink.write(f"{name}{number} ".encode())
                await sink.drain()

        return write

    sink = SlowSink()
    task = asyncio.create_task(merge([counted("a"), counted("b"), counted("c")])(sink))
    await until(lambda: len(given) == 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert given == ["a0", "b0", "c0"]
    sink.gate.set()
    await task
    assert sorted(b"".join(sink.writes).split()) == sorted(name.encode() for name in given)
    assert len(sink.writes) < len(given)


async def test_work_whose_client_stays_gives_its_result() -> None:
    async def forever() -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    async def work() -> int:
        return 3

    async def failing() -> int:
        raise ValueError("mine")

    left: list[bool] = []
    assert await unless_client_leaves(forever, work(), lambda: left.append(True)) == 3
    with pytest.raises(ValueError, match="mine"):
        await unless_client_leaves(forever, failing(), lambda: left.append(True))
    assert left == []
