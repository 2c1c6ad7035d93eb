import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from fakes import FakeRunner, engine_info, expected_tokens, make_request

from segue.core.batch import ScheduledBatch, StepOutput
from segue.core.errors import EngineDeadError, GenerationError
from segue.core.output import StepStats
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.handle import EngineHandle
from segue.engine.local import LocalEngine

CONFIG = EngineConfig(num_blocks=40, block_size=4, max_batch_size=8, max_batch_prefill_tokens=32)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    with LocalEngine(Engine(CONFIG, FakeRunner(block_size=4)), engine_info(CONFIG)) as local:
        yield local


async def generate(engine: EngineHandle, prompt: list[int], num_tokens: int) -> list[int]:
    request = make_request(engine.next_request_id(), prompt, max_new_tokens=num_tokens)
    return [token.token_id async for output in engine.submit(request) for token in output.tokens]


async def test_many_at_a_time(engine: LocalEngine) -> None:
    prompts = [list(range(i, i + 6)) for i in range(30)]
    results = await asyncio.gather(*(generate(engine, prompt, 9) for prompt in prompts))
    assert results == [expected_tokens(prompt, 9) for prompt in prompts]
    assert engine.info.model_type == "fake"
    assert engine.is_healthy


async def test_an_error_is_raised_and_the_others_go_on(engine: LocalEngine) -> None:
    with pytest.raises(GenerationError, match="the request needs 101 cache blocks, the server has 40"):
        await generate(engine, [1], 404)
    assert await generate(engine, [1], 3) == expected_tokens([1], 3)


async def test_aborts_at_random_moments_leave_no_block_behind(engine: LocalEngine) -> None:
    rng = random.Random(5)
    is_empty = asyncio.Event()

    def note(stats: StepStats) -> None:
        if stats.num_used_blocks or stats.num_running or stats.num_waiting:
            is_empty.clear()
        else:
            is_empty.set()

    engine.on_step.append(note)

    async def use(prompt: list[int]) -> None:
        request = make_request(engine.next_request_id(), prompt, max_new_tokens=rng.randint(1, 40))
        way, after = rng.choice(["read", "close", "cancel", "abort"]), rng.randint(0, 10)
        stream = engine.submit(request)
        if way == "cancel":
            reader = asyncio.create_task(collect(stream))
            for _ in range(after * 3):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            return
        tokens: list[int] = []
        async with aclosing(stream):
            async for output in stream:
                tokens += [token.token_id for token in output.tokens]
                if way == "close" and len(tokens) > after:
                    break
                if way == "abort" and len(tokens) > after:
                    engine.abort(request.request_id)
        assert tokens == expected_tokens(prompt, len(tokens))
        if way == "read":
            assert len(tokens) == request.stop.max_new_tokens

    async def collect(stream: object) -> None:
        async for _ in stream:  # type: ignore[attr-defined]
            pass

    for _ in range(8):
        await asyncio.gather(*(use([rng.randrange(4) for _ in range(rng.randint(1, 20))]) for _ in range(25)))
    assert await generate(engine, [9], 1) == expected_tokens([9], 1)
    async with asyncio.timeout(10):
        await is_empty.wait()


class GatedRunner(FakeRunner):
    """Its steps wait until ``gate`` is open."""

    def __init__(self) -> None:
        super().__init__(block_size=4)
        self.gate = threading.Event()
        self.has_begun = threading.Event()

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        self.has_begun.set()
        self.gate.wait()
        return super().execute(batch)


async def test_closing_fails_what_is_in_flight() -> None:
    runner = GatedRunner()
    local = LocalEngine(Engine(CONFIG, runner), engine_info(CONFIG))
    stream = local.submit(make_request(1, max_new_tokens=100))
    await asyncio.to_thread(runner.has_begun.wait)
    local._commands.put(None)  # so that the thread ends after this step and not some steps later
    runner.gate.set()
    local.close()
    with pytest.raises(GenerationError, match="Server error: the engine was closed"):
        async for _ in stream:
            pass
    assert not local.is_healthy
    with pytest.raises(GenerationError, match="Server error: engine thread is not running"):
        await generate(local, [1], 3)


class DyingRunner:
    def execute(self, batch: ScheduledBatch) -> StepOutput:
        raise EngineDeadError("the device is lost")


async def test_a_thread_that_ends_fails_what_is_in_flight() -> None:
    with LocalEngine(Engine(CONFIG, DyingRunner()), engine_info(CONFIG)) as local:
        with pytest.raises(GenerationError, match="Server error: engine thread ended unexpectedly: the device is lost"):
            await generate(local, [1], 3)
        assert not local.is_healthy


async def test_an_id_still_live_in_the_engine_is_an_error() -> None:
    runner = GatedRunner()
    with LocalEngine(Engine(CONFIG, runner), engine_info(CONFIG)) as engine:
        first = engine.submit(make_request(1, max_new_tokens=100))
        engine._streams._streams.clear()  # as if the reader had dropped it and its abort were still on its way
        second = engine.submit(make_request(1))
        runner.gate.set()
        with pytest.raises(GenerationError, match="request 1 is live already"):
            await anext(second)
        await first.aclose()
