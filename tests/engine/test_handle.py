import asyncio
import gc
import logging

import pytest

from segue.core.errors import GenerationError
from segue.core.output import EngineStep, FinishReason, RequestOutput, StepStats, TokenOutput
from segue.engine.handle import RequestStream, Streams

TOKEN = RequestOutput(request_id=1, tokens=(TokenOutput(5, -1.0),))
LAST = RequestOutput(request_id=1, tokens=(TokenOutput(6, -1.0),), finish_reason=FinishReason.LENGTH)
ERROR = RequestOutput(request_id=1, error="boom")


class Fixture:
    def __init__(self) -> None:
        self.aborted: list[int] = []
        self.streams = Streams()
        self.stream: RequestStream | None = self.streams.open(1, self.aborted.append)

    def deliver(self, *outputs: RequestOutput, stats: StepStats | None = None) -> None:
        self.streams.deliver(EngineStep(outputs=outputs, stats=stats or StepStats()))


@pytest.fixture
async def f() -> Fixture:
    return Fixture()


async def read(stream: RequestStream | None) -> list[RequestOutput]:
    assert stream is not None
    return [output async for output in stream]


async def test_a_stream_ends_after_the_last_output(f: Fixture) -> None:
    f.deliver(TOKEN)
    f.deliver(LAST)
    assert await read(f.stream) == [TOKEN, LAST]
    assert await read(f.stream) == []
    assert f.stream is not None
    await f.stream.aclose()
    assert f.aborted == []


async def test_an_error_output_is_raised_once(f: Fixture) -> None:
    f.deliver(TOKEN)
    f.deliver(ERROR)
    assert f.stream is not None
    assert await anext(f.stream) == TOKEN
    with pytest.raises(GenerationError, match=r"^Request failed during generation: boom$"):
        await anext(f.stream)
    assert await read(f.stream) == []
    assert f.aborted == []


async def test_closing_early_aborts_once(f: Fixture) -> None:
    f.deliver(TOKEN)
    assert f.stream is not None
    await f.stream.aclose()
    await f.stream.aclose()
    assert await read(f.stream) == []
    assert f.aborted == [1]


async def test_closing_with_the_last_output_unread_does_not_abort(f: Fixture) -> None:
    f.deliver(LAST)
    assert f.stream is not None
    await f.stream.aclose()
    assert f.aborted == []


async def test_cancelling_a_reader_aborts(f: Fixture) -> None:
    reader = asyncio.create_task(read(f.stream))
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert f.aborted == [1]


async def test_closing_wakes_a_reader(f: Fixture) -> None:
    reader = asyncio.create_task(read(f.stream))
    await asyncio.sleep(0)
    assert f.stream is not None
    await f.stream.aclose()
    assert await reader == []


async def test_a_dropped_stream_aborts(f: Fixture) -> None:
    f.stream = None
    gc.collect()
    await asyncio.sleep(0)
    assert f.aborted == [1]
    f.deliver(TOKEN)


async def test_a_stream_dropped_after_its_end_does_not_abort(f: Fixture) -> None:
    f.deliver(LAST)
    f.stream = None
    gc.collect()
    await asyncio.sleep(0)
    assert f.aborted == []


async def test_an_aborted_request_ends_its_stream_without_an_output(f: Fixture) -> None:
    f.streams.end(1)
    f.deliver(LAST)
    assert await read(f.stream) == []
    assert f.aborted == []


async def test_failing_all(f: Fixture) -> None:
    other = f.streams.open(2, f.aborted.append)
    f.streams.fail_all("Server error: gone")
    for stream in (f.stream, other):
        with pytest.raises(GenerationError, match="Server error: gone"):
            await read(stream)


async def test_an_id_in_flight_is_not_taken_twice(f: Fixture) -> None:
    with pytest.raises(ValueError, match="in flight already"):
        f.streams.open(1, f.aborted.append)
    f.deliver(LAST)
    f.streams.open(1, f.aborted.append)


async def test_a_step_callback_that_fails_hurts_nobody(f: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[StepStats] = []

    def fail(stats: StepStats) -> None:
        raise RuntimeError("metrics are broken")

    f.streams.on_step += [fail, seen.append]
    with caplog.at_level(logging.ERROR):
        f.deliver(LAST, stats=StepStats(num_running=3))
    assert "metrics are broken" in caplog.text
    assert [stats.num_running for stats in seen] == [3]
    assert await read(f.stream) == [LAST]


def test_request_ids_of_two_servers_differ() -> None:
    first, second = Streams(), Streams()
    ids = [streams.next_request_id() for streams in (first, second) for _ in range(3)]
    assert len(set(ids)) == 6
    assert all(0 <= request_id < 2**63 for request_id in ids)
