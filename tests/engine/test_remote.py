"""Real engine processes behind real sockets, both sides' deaths included."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes import make_request, serve_fake_engine

from segue.core.errors import ConfigError, EngineDeadError, GenerationError
from segue.core.limits import RouterLimits
from segue.core.output import EngineStep, RequestOutput, StepStats
from segue.engine.channel import FrameReader, Frames
from segue.engine.handle import EngineHandle, RequestStream
from segue.engine.ipc import decode
from segue.engine.remote import RemoteEngine

START_TIMEOUT_S = 60
SLOW = {"step_s": 0.001, "num_blocks": 4096}
LONG = 15_000
"""Tokens of a request that a slow engine does not finish during a test."""
Start = Callable[..., BaseProcess]


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/engine"


@pytest.fixture
def start(endpoint: str) -> Iterator[Start]:
    """Starts an engine process at ``endpoint``."""
    processes = []

    def start(**options: float) -> BaseProcess:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=serve_fake_engine, args=(endpoint,), kwargs=options)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()
        process.close()


@pytest.fixture
async def remote(endpoint: str) -> AsyncIterator[RemoteEngine]:
    remote = RemoteEngine(endpoint)
    yield remote
    await remote.close()


async def read(stream: RequestStream) -> list[int]:
    return [token.token_id async for output in stream for token in output.tokens]


def submit(engine: EngineHandle, *prompt: int, num_tokens: int = 5) -> RequestStream:
    return engine.submit(make_request(engine.next_request_id(), prompt, max_new_tokens=num_tokens))


async def step_where(engine: EngineHandle, is_wanted: Callable[[StepStats], bool]) -> StepStats:
    found: asyncio.Future[StepStats] = asyncio.get_running_loop().create_future()

    def look(stats: StepStats) -> None:
        if is_wanted(stats) and not found.done():
            found.set_result(stats)

    engine.on_step.append(look)
    async with asyncio.timeout(START_TIMEOUT_S):
        return await found


async def test_round_trip(start: Start, remote: RemoteEngine) -> None:
    with pytest.raises(EngineDeadError, match="not answered yet"):
        _ = remote.info
    assert not remote.is_healthy
    start()
    await remote.connect(START_TIMEOUT_S)
    assert remote.is_healthy
    assert (remote.info.model_type, remote.info.num_blocks) == ("fake", 64)
    results = await asyncio.gather(*(read(submit(remote, 100 * i)) for i in range(1, 21)))
    assert results == [list(range(100 * i + 1, 100 * i + 6)) for i in range(1, 21)]
    with pytest.raises(GenerationError, match="the request needs 125 cache blocks"):
        await read(submit(remote, 1, num_tokens=500))


async def test_closing_a_stream_frees_its_blocks_in_the_engine(start: Start, remote: RemoteEngine) -> None:
    start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    stream = submit(remote, 1, num_tokens=LONG)
    await anext(stream)
    freed = asyncio.create_task(step_where(remote, lambda stats: stats.num_used_blocks == 0))
    await asyncio.sleep(0)
    await stream.aclose()
    assert (await freed).num_running == 0


async def test_abort_ends_the_stream(start: Start, remote: RemoteEngine) -> None:
    start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    stream = submit(remote, 1, num_tokens=LONG)
    await anext(stream)
    remote.abort(stream.request_id)
    assert len(await read(stream)) < LONG


async def test_several_servers_share_an_engine(start: Start, endpoint: str) -> None:
    start(**SLOW)
    servers = [RemoteEngine(endpoint) for _ in range(3)]
    seen: list[list[RequestOutput]] = [[], [], []]
    try:
        for server in servers:
            await server.connect(START_TIMEOUT_S)

        async def use(i: int) -> None:
            async for output in submit(servers[i], 100 * i + 100):
                seen[i].append(output)

        other_steps = asyncio.create_task(step_where(servers[0], lambda stats: stats.num_running > 0))
        await asyncio.gather(use(1), use(2))
        assert (await other_steps).num_total_blocks == 4096
        assert [t.token_id for out in seen[1] for t in out.tokens] == list(range(201, 206))
        assert [t.token_id for out in seen[2] for t in out.tokens] == list(range(301, 306))
    finally:
        await asyncio.gather(*(server.close() for server in servers))


async def test_a_server_that_leaves_gives_up_its_requests(start: Start, remote: RemoteEngine, endpoint: str) -> None:
    start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    leaving = RemoteEngine(endpoint)
    await leaving.connect(START_TIMEOUT_S)
    stream = submit(leaving, 1, num_tokens=LONG)
    await anext(stream)
    freed = asyncio.create_task(step_where(remote, lambda stats: stats.num_running == 0))
    await asyncio.sleep(0)
    await leaving.close()
    await freed
    with pytest.raises(GenerationError, match="Server error: the server is shutting down"):
        await read(stream)


async def test_the_engines_death_fails_all_in_flight_and_a_new_engine_is_found(
    start: Start, remote: RemoteEngine
) -> None:
    process = start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    streams = [submit(remote, i, num_tokens=LONG) for i in range(1, 4)]
    await anext(streams[0])
    process.kill()
    for stream in streams:
        with pytest.raises(GenerationError, match="Server error: engine process ended unexpectedly"):
            await read(stream)
    assert not remote.is_healthy
    with pytest.raises(GenerationError, match="Server error: engine process is not running"):
        await read(submit(remote, 1))
    start()
    await remote.connect(START_TIMEOUT_S)
    assert await read(submit(remote, 7)) == [8, 9, 10, 11, 12]


async def test_an_engine_that_dies_in_a_step_fails_its_requests(start: Start, remote: RemoteEngine) -> None:
    process = start()
    await remote.connect(START_TIMEOUT_S)
    with pytest.raises(GenerationError, match="Server error"):
        await read(submit(remote, 13))
    process.join(START_TIMEOUT_S)
    assert process.exitcode == 3


async def test_the_launcher_may_tell_of_death_and_of_a_new_endpoint(
    start: Start, remote: RemoteEngine, endpoint: str
) -> None:
    start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    stream = submit(remote, 1, num_tokens=LONG)
    remote.mark_dead("engine process ended with code 9")
    with pytest.raises(GenerationError, match="Server error: engine process ended with code 9"):
        await read(stream)
    remote.endpoint = endpoint + "-elsewhere"
    await remote.mark_alive(endpoint, START_TIMEOUT_S)
    assert await read(submit(remote, 7)) == [8, 9, 10, 11, 12]


async def test_waiting_for_an_engine_that_does_not_come(remote: RemoteEngine) -> None:
    with pytest.raises(EngineDeadError, match="no engine answered"):
        await remote.connect(0.01)


async def test_stop_engine(start: Start, remote: RemoteEngine) -> None:
    process = start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    stream = submit(remote, 1, num_tokens=LONG)
    await anext(stream)
    remote.stop_engine()
    with pytest.raises(GenerationError, match="Server error"):
        await read(stream)
    process.join(START_TIMEOUT_S)
    assert process.exitcode == 0


PARENTS = {
    "multiprocessing": """
import multiprocessing, sys, time
from fakes import serve_fake_engine
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=serve_fake_engine, args=(sys.argv[1],))
    process.start()
    print(process.pid, flush=True)
    time.sleep(600)
""",
    "subprocess": """
import subprocess, sys, time
code = "import sys; from fakes import serve_fake_engine; serve_fake_engine(sys.argv[1])"
print(subprocess.Popen([sys.executable, "-c", code, sys.argv[1]]).pid, flush=True)
time.sleep(600)
""",
}


@pytest.mark.parametrize("kind", PARENTS)
async def test_the_engine_ends_with_its_parent(kind: str, remote: RemoteEngine, endpoint: str, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENTS[kind])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, script, endpoint], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        engine = psutil.Process(int(parent.stdout.readline()))
        await remote.connect(START_TIMEOUT_S)
        stream = submit(remote, 1, num_tokens=1)
        await read(stream)
        os.kill(parent.pid, signal.SIGKILL)
    async with asyncio.timeout(START_TIMEOUT_S):
        while remote.is_healthy:  # noqa: ASYNC110 (the disconnection has no event of its own)
            await asyncio.sleep(0.01)
    gone, _ = psutil.wait_procs([engine], timeout=START_TIMEOUT_S)
    assert gone or engine.status() == psutil.STATUS_ZOMBIE


async def test_an_idle_engine_uses_no_cpu(start: Start, remote: RemoteEngine) -> None:
    process = start()
    await remote.connect(START_TIMEOUT_S)
    await read(submit(remote, 1))
    engine = psutil.Process(process.pid)
    before = engine.num_ctx_switches().voluntary
    await asyncio.sleep(0.3)
    assert engine.num_ctx_switches().voluntary - before < 10


async def test_B2_a_router_brings_limits_of_its_own(start: Start, endpoint: str) -> None:
    start()
    limits = RouterLimits(max_input_tokens=20, max_total_tokens=40, max_batch_prefill_tokens=8, max_batch_size=1)
    router = RemoteEngine(endpoint, limits)
    await router.connect(START_TIMEOUT_S)
    info = router.info
    assert (info.max_input_tokens, info.max_total_tokens, info.max_batch_prefill_tokens) == (20, 40, 8)
    steps: list[StepStats] = []
    router.on_step.append(steps.append)
    results = await asyncio.gather(*(read(submit(router, *[100 * i] * 20)) for i in (1, 2)))
    assert results == [list(range(100 * i + 1, 100 * i + 6)) for i in (1, 2)]
    assert max(step.num_running for step in steps) == 1
    assert max(step.num_scheduled_tokens for step in steps) == 8
    await router.close()


async def test_B2_limits_that_the_engine_cannot_hold(start: Start, endpoint: str) -> None:
    start()
    router = RemoteEngine(endpoint, RouterLimits(max_total_tokens=257))
    with pytest.raises(ConfigError, match="Not enough memory to handle `max_total_tokens=257`"):
        await router.connect(START_TIMEOUT_S)
    assert not router.is_healthy
    await router.close()


async def test_B2_limits_stay_while_requests_run(start: Start, remote: RemoteEngine, endpoint: str) -> None:
    start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    stream = submit(remote, 1, num_tokens=LONG)
    await anext(stream)
    router = RemoteEngine(endpoint, RouterLimits(max_batch_size=1))
    with pytest.raises(ConfigError, match="the engine is at work"):
        await router.connect(START_TIMEOUT_S)
    await router.close()
    await anext(stream)
    await stream.aclose()


async def test_B3_a_group_runs_in_one_step(start: Start, remote: RemoteEngine) -> None:
    start()
    await remote.connect(START_TIMEOUT_S)
    steps: list[StepStats] = []
    remote.on_step.append(steps.append)
    requests = [make_request(remote.next_request_id(), [100 * i], max_new_tokens=3) for i in range(1, 9)]
    results = await asyncio.gather(*map(read, remote.submit_group(requests)))
    assert results == [[100 * i + k for k in (1, 2, 3)] for i in range(1, 9)]
    assert steps[0].num_prefill_sequences == 8


async def test_M1_the_gauges_after_an_engines_death(start: Start, remote: RemoteEngine) -> None:
    """Nothing runs any more, and the step that ran has failed."""
    process = start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    stream = submit(remote, 1, num_tokens=LONG)
    await anext(stream)
    last = asyncio.create_task(step_where(remote, lambda stats: stats.num_running == 0))
    await asyncio.sleep(0)
    process.kill()
    assert await last == StepStats(num_total_blocks=4096, num_failed_decodes=1, has_failed=True)


async def test_an_engine_that_is_stopped_is_silent(start: Start, remote: RemoteEngine) -> None:
    process = start(**SLOW)
    await remote.connect(START_TIMEOUT_S)
    silence = asyncio.create_task(remote.until_silent(0.2))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    await asyncio.wait_for(silence, START_TIMEOUT_S)


async def test_an_engine_that_answers_is_not_silent(start: Start, remote: RemoteEngine) -> None:
    """Idle, and in steps that are longer than a beat."""
    start(step_s=0.3)
    await remote.connect(START_TIMEOUT_S)
    silence = asyncio.create_task(remote.until_silent(60.0))
    heard = remote._num_heard
    async with asyncio.timeout(START_TIMEOUT_S):
        while remote._num_heard == heard:  # noqa: ASYNC110 (an answer to a heartbeat has no event)
            await asyncio.sleep(0.01)
    await read(submit(remote, 1, num_tokens=2))
    assert not silence.done()
    silence.cancel()


class HoldingLane:
    """Takes every step, and gives them back when they are asked for."""

    def __init__(self) -> None:
        self.dropped: list[int] = []
        self.num_cleared = 0
        self.has_held = asyncio.Event()

    def reader(self) -> Frames:
        return HoldingReader(self.has_held)

    def open(self, request_id: int, pen: Any) -> None:
        raise AssertionError("nobody writes here")

    def drop(self, request_id: int) -> None:
        self.dropped.append(request_id)

    def clear(self) -> None:
        self.num_cleared += 1


class HoldingReader(FrameReader):
    def __init__(self, has_held: asyncio.Event) -> None:
        super().__init__()
        self._held: list[bytes] = []
        self._has_held = has_held

    def feed(self, data: bytes) -> list[bytes]:
        frames = super().feed(data)
        steps = [frame for frame in frames if isinstance(decode(frame), EngineStep)]
        if steps:
            self._held += steps
            self._has_held.set()
        return [frame for frame in frames if frame not in steps]

    def release(self) -> list[bytes]:
        held, self._held = self._held, []
        return held


@pytest.mark.parametrize("end", ["settle", "close", "mark_dead", "stop_engine"])
async def test_steps_that_a_lane_holds_are_told_at_the_end(start: Start, endpoint: str, end: str) -> None:
    lane = HoldingLane()
    remote = RemoteEngine(endpoint, lane=lane)
    process = start(**SLOW)
    steps: list[StepStats] = []
    remote.on_step.append(steps.append)
    async with asyncio.timeout(START_TIMEOUT_S):
        await remote.connect()
        stream = submit(remote, 1, num_tokens=LONG)
        await lane.has_held.wait()
        assert steps == []
        if end == "settle":
            remote.settle()
            assert (await anext(stream)).tokens[0].token_id == 2
            assert lane.num_cleared == 0
            await stream.aclose()
            assert lane.dropped == [stream.request_id]
        elif end == "stop_engine":
            remote.stop_engine()
            while process.is_alive() or lane.num_cleared == 0:  # noqa: ASYNC110 (its end has no event)
                await asyncio.sleep(0.01)
        elif end == "mark_dead":
            remote.mark_dead()
        if end != "settle":
            await remote.close()
            assert lane.num_cleared > 0
    assert steps[0].num_prefill_sequences == 1
    await remote.close()
