"""Times of real steps, through an engine that belongs to this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes import FakeRunner, engine_info

from segue.benchmark.measure import Benchmark, Run
from segue.benchmark.options import BenchmarkOptions
from segue.core.errors import ConfigError
from segue.core.output import EngineInfo, StepStats
from segue.core.request import Request
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.gathering import Gathering
from segue.engine.handle import RequestStream, Streams


class SteppedEngine:
    """Runs steps in the event loop, and keeps the requests and the statistics."""

    def __init__(self, **config: Any) -> None:
        engine_config = EngineConfig(num_blocks=400, block_size=4, **config)
        self._engine = Engine(engine_config, FakeRunner(block_size=4, most_steps=lambda: 3))
        self._streams = Streams()
        self.info: EngineInfo = engine_info(engine_config)
        self.requests: list[Request] = []
        self.steps: list[StepStats] = []

    @property
    def on_step(self) -> list[Callable[[StepStats], None]]:
        return self._streams.on_step

    def next_request_id(self) -> int:
        return self._streams.next_request_id()

    def submit_group(self, requests: Sequence[Request]) -> list[RequestStream]:
        self.requests += requests
        streams = [self._streams.open(each.request_id, lambda i: self._engine.abort([i])) for each in requests]
        for each in requests:
            self._engine.add(each)
        return streams

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            step = self._engine.step()
            if step is not None:
                self.steps.append(step.stats)
                self._streams.deliver(step)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["SteppedEngine"]:
        task = asyncio.create_task(self.run())
        yield self
        task.cancel()


async def measure(engine: SteppedEngine, **options: Any) -> dict[int, list[Run]]:
    benchmark = Benchmark(engine, BenchmarkOptions(tokenizer_name="m", **options), [5, 6, 7])
    async with engine.running():
        await benchmark.run(lambda: None)
    return benchmark.results.runs


async def test_B3_runs_of_each_batch_size() -> None:
    engine = SteppedEngine()
    runs = await measure(engine, batch_size=(1, 3), runs=2, warmups=1, sequence_length=7, decode_length=5)
    assert {size: len(each) for size, each in runs.items()} == {1: 2, 3: 2}
    assert all(len(run.decode_s) == run.num_decoded == 4 for each in runs.values() for run in each)
    assert all(run.prefill_s > 0 and min(run.decode_s) > 0 for each in runs.values() for run in each)
    assert len(engine.requests) == 3 * 1 + 3 * 3
    assert {request.prompt_token_ids for request in engine.requests} == {(5, 6, 7, 5, 6, 7, 5)}


async def test_B3_steps_that_come_as_one_count_each() -> None:
    engine = SteppedEngine(run_ahead=Gathering(1000.0))
    runs = await measure(engine, batch_size=(2,), runs=1, warmups=0, sequence_length=7, decode_length=9)
    assert [step.num_steps for step in engine.steps if step.num_scheduled_tokens] == [1, 1, 3, 3, 1]
    assert len(runs[2][0].decode_s) == 8


async def test_B3_no_prompt_comes_from_a_cache() -> None:
    engine = SteppedEngine()
    await measure(engine, batch_size=(4,), runs=3, sequence_length=40)
    assert sum(step.num_cached_tokens for step in engine.steps) == 0


async def test_B3_a_batch_that_takes_several_steps_to_read() -> None:
    """Sequences that were read first generate meanwhile: that is prefill's time."""
    engine = SteppedEngine(max_batch_prefill_tokens=16)
    runs = await measure(engine, batch_size=(4,), runs=1, warmups=0, sequence_length=10, decode_length=20)
    (run,) = runs[4]
    assert sum(step.num_prefill_sequences > 0 for step in engine.steps) > 1
    assert len(run.decode_s) < 20


async def test_B3_eos_ends_nothing() -> None:
    engine = SteppedEngine()
    await measure(engine, batch_size=(1,), runs=1)
    (request, *_) = engine.requests
    assert request.sampling.ignore_eos
    assert request.stop.eos_token_ids == frozenset()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 1600}, "`sequence_length` must be <= 1599"),
        ({"sequence_length": 1590, "decode_length": 20}, r"`sequence_length` \+ `decode_length` must be <= 1600"),
    ],
)
async def test_B3_what_the_engine_cannot_run(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await measure(SteppedEngine(), **options)


def test_B3_rates() -> None:
    run = Run(batch_size=4, prefill_s=0.5, decode_s=(0.1, 0.3), num_decoded=2)
    assert run.prefill_rate == 8
    assert run.decode_rate == pytest.approx(20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`tokenizer_name` must be given"),
        ({"tokenizer_name": "m", "decode_length": 1}, "`decode_length` must be > 1"),
        ({"tokenizer_name": "m", "batch_size": (1, 0)}, "`batch_size` must be > 0"),
        ({"tokenizer_name": "m", "runs": 0}, "`runs` must be > 0"),
        ({"tokenizer_name": "m", "warmups": -1}, "`warmups` must be >= 0"),
    ],
)
def test_B3_numbers_that_measure_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchmarkOptions(**options).check()


def test_B3_names_and_defaults_are_those_of_tgi() -> None:
    options = BenchmarkOptions(tokenizer_name="m")
    options.check()
    assert (options.revision, options.batch_size) == ("main", (1, 2, 4, 8, 16, 32))
    assert (options.sequence_length, options.decode_length, options.runs, options.warmups) == (10, 8, 10, 1)
    assert not options.sampling().is_sampling
    assert BenchmarkOptions(temperature=0.5, top_k=3, watermark=True).sampling().top_k == 3
