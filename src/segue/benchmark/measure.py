"""Runs batches on an engine and takes the time of every step.

A run submits a batch at once and waits for its last token. The time to the end of the last step that read prompts is
the prefill's; each step after it gave every sequence its next token. No prompt is found in a cache: each has a salt of
its own.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from segue.benchmark.options import BenchmarkOptions
from segue.core.errors import ConfigError
from segue.core.output import EngineInfo, StepStats
from segue.core.request import Request, StopCriteria
from segue.engine.handle import RequestStream, StepCallback

__all__ = ["Benchmark", "GroupEngine", "Results", "Run"]


class GroupEngine(Protocol):
    """What the benchmark asks of an engine: ``segue.engine.remote.RemoteEngine``."""

    @property
    def on_step(self) -> list[StepCallback]: ...

    @property
    def info(self) -> EngineInfo: ...

    def next_request_id(self) -> int: ...

    def submit_group(self, requests: Sequence[Request]) -> list[RequestStream]: ...


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one batch."""

    batch_size: int
    prefill_s: float
    decode_s: tuple[float, ...]
    """Of each step after the prefill: one token a sequence, or more where the engine speculates."""
    num_decoded: int
    """Tokens of each sequence that these steps gave."""

    @property
    def prefill_rate(self) -> float:
        """Tokens a second: the prefill gives each sequence its first one."""
        return self.batch_size / self.prefill_s

    @property
    def decode_rate(self) -> float:
        return self.batch_size * self.num_decoded / sum(self.decode_s)


@dataclass(slots=True)
class Results:
    """All runs so far, by batch size."""

    options: BenchmarkOptions
    runs: dict[int, list[Run]] = field(default_factory=dict)

    def add(self, run: Run) -> None:
        self.runs.setdefault(run.batch_size, []).append(run)

    @property
    def num_done(self) -> int:
        return sum(map(len, self.runs.values()))

    @property
    def num_all(self) -> int:
        return len(self.options.batch_size) * self.options.runs


class Benchmark:
    """One measurement, on the engine's machine. ``text_ids``: of some text, repeated to the length of the prompts."""

    def __init__(self, engine: GroupEngine, options: BenchmarkOptions, text_ids: Sequence[int]) -> None:
        """Raises ConfigError when the engine cannot run such prompts."""
        info = engine.info
        if options.sequence_length > info.max_input_tokens:
            raise ConfigError(f"`sequence_length` must be <= {info.max_input_tokens}, what the engine takes")
        if options.sequence_length + options.decode_length > info.max_total_tokens:
            raise ConfigError(f"`sequence_length` + `decode_length` must be <= {info.max_total_tokens}")
        self._engine = engine
        self._options = options
        self._prompt = tuple(itertools.islice(itertools.cycle(text_ids), options.sequence_length))
        self.results = Results(options)

    async def run(self, on_run: Callable[[], None]) -> None:
        """All batch sizes, one after the other; ``on_run`` is called between runs.

        Raises GenerationError when the engine fails.
        """
        for batch_size in self._options.batch_size:
            for _ in range(self._options.warmups):
                await self._run_once(batch_size)
            for _ in range(self._options.runs):
                self.results.add(await self._run_once(batch_size))
                on_run()

    async def _run_once(self, batch_size: int) -> Run:
        steps: list[StepStats] = []

        def take(stats: StepStats) -> None:
            if stats.num_scheduled_tokens:
                steps.append(stats)

        requests = [self._request() for _ in range(batch_size)]
        self._engine.on_step.append(take)
        try:
            start = time.monotonic()
            await asyncio.gather(*map(_read, self._engine.submit_group(requests)))
        finally:
            self._engine.on_step.remove(take)
        return _to_run(batch_size, start, steps, self._options.decode_length - 1)

    def _request(self) -> Request:
        info, request_id = self._engine.info, self._engine.next_request_id()
        return Request(
            request_id=request_id,
            prompt_token_ids=info.decoder_start_token_ids if info.is_encoder_decoder else self._prompt,
            encoder_token_ids=self._prompt if info.is_encoder_decoder else None,
            sampling=self._options.sampling(),
            stop=StopCriteria(max_new_tokens=self._options.decode_length),
            arrival_time=time.monotonic(),
            cache_salt=f"benchmark {request_id}",
        )


async def _read(stream: RequestStream) -> None:
    try:
        async for _ in stream:
            pass
    finally:
        await stream.aclose()


def _to_run(batch_size: int, start: float, steps: Sequence[StepStats], num_decoded: int) -> Run:
    # The engine's times: this process may hear of two steps at once. All processes of a machine share the clock.
    last_prefill = max(i for i, stats in enumerate(steps) if stats.num_prefill_sequences)
    decodes: list[float] = []
    for before, stats in itertools.pairwise(steps[last_prefill:]):
        decodes += [(stats.end_time - before.end_time) / stats.num_steps] * stats.num_steps
    return Run(batch_size, steps[last_prefill].end_time - start, tuple(decodes), num_decoded)
