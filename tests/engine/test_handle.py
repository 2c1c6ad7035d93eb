import asyncio
import gc
import logging
from collections.abc import Sequence

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


class Taker:
    """Reads a stream by ``read``; wants more until it has ``count`` outputs."""

    def __init__(self, count: int = 1 << 30, error: Exception | None = None) -> None:
        self.outputs: list[RequestOutput] = []
        self.count = count
        self.error = error
        self.num_calls = 0

    def __call__(self, outputs: Sequence[RequestOutput]) -> bool:
        self.outputs += outputs
        self.num_calls += 1
        if self.error is not None:
            raise self.error
        return len(self.outputs) < self.count


async def reading(f: Fixture, take: Taker) -> "asyncio.Task[None]":
    assert f.stream is not None
    task = asyncio.create_task(f.stream.read(take))
    await asyncio.sleep(0)
    return task


async def test_outputs_are_taken_where_they_are_delivered(f: Fixture) -> None:
    f.deliver(TOKEN)
    take = Taker()
    task = await reading(f, take)
    assert take.outputs == [TOKEN]
    f.deliver(TOKEN)
    assert take.outputs == [TOKEN, TOKEN]
    f.deliver(LAST)
    assert take.outputs == [TOKEN, TOKEN, LAST]
    await task
    assert f.stream is not None
    assert f.stream.is_closed
    await f.stream.read(take)
    await f.stream.aclose()
    assert (len(take.outputs), f.aborted) == (3, [])


async def test_what_is_not_wanted_now_waits_for_the_next_read(f: Fixture) -> None:
    take = Taker(2)
    task = await reading(f, take)
    for output in (TOKEN, TOKEN, TOKEN, LAST):
        f.deliver(output)
    assert take.outputs == [TOKEN, TOKEN]
    await task
    assert f.stream is not None
    assert not f.stream.is_closed
    await f.stream.read(take)
    assert take.outputs == [TOKEN, TOKEN, TOKEN, LAST]
    assert f.stream.is_closed


async def test_an_error_waits_for_the_outputs_before_it(f: Fixture) -> None:
    f.deliver(TOKEN)
    f.deliver(TOKEN)
    f.deliver(ERROR)
    take = Taker()
    assert f.stream is not None
    with pytest.raises(GenerationError, match="boom"):
        await f.stream.read(take)
    assert take.outputs == [TOKEN, TOKEN]


async def test_several_steps_at_once(f: Fixture) -> None:
    other = f.streams.open(2, f.aborted.append)
    take, calls = Taker(), list[int]()
    f.streams.on_step.append(lambda stats: calls.append(stats.num_running))
    task = await reading(f, take)
    ended = RequestOutput(request_id=2, finish_reason=FinishReason.LENGTH)
    f.streams.deliver_all(
        [
            EngineStep(outputs=(TOKEN, ended), stats=StepStats(num_running=2)),
            EngineStep(outputs=(TOKEN,), stats=StepStats(num_running=1)),
            EngineStep(outputs=(LAST,), stats=StepStats()),
        ]
    )
    assert (take.outputs, take.num_calls, calls) == ([TOKEN, TOKEN, LAST], 1, [2, 1, 0])
    await task
    assert await read(other) == [ended]
    f.streams.open(1, f.aborted.append)
    f.streams.open(2, f.aborted.append)


async def test_an_error_output_is_raised_by_read(f: Fixture) -> None:
    take = Taker()
    task = await reading(f, take)
    f.deliver(TOKEN)
    f.deliver(ERROR)
    with pytest.raises(GenerationError, match="boom"):
        await task
    assert (take.outputs, f.aborted) == ([TOKEN], [])


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_what_a_taker_raises_is_its_readers(f: Fixture, is_waiting: bool) -> None:
    other = f.streams.open(2, f.aborted.append)
    if not is_waiting:
        f.deliver(TOKEN)
    task = await reading(f, Taker(error=RuntimeError("mine")))
    if is_waiting:
        f.deliver(TOKEN, RequestOutput(request_id=2, finish_reason=FinishReason.LENGTH))
        assert len(await read(other)) == 1
    with pytest.raises(RuntimeError, match="mine"):
        await task
    assert f.aborted == []
    assert f.stream is not None
    await f.stream.aclose()
    assert f.aborted == [1]


async def test_cancelling_a_read_aborts(f: Fixture) -> None:
    take = Taker()
    task = await reading(f, take)
    task.cancel()
    f.deliver(TOKEN)
    with pytest.raises(asyncio.CancelledError):
        await task
    f.deliver(TOKEN)
    assert f.aborted == [1]


async def test_an_abort_and_a_close_end_a_read(f: Fixture) -> None:
    task = await reading(f, Taker())
    f.streams.end(1)
    await task
    f.stream = f.streams.open(1, f.aborted.append)
    task = await reading(f, Taker())
    await f.stream.aclose()
    await task
    assert f.aborted == [1]
