"""Prints what the engine itself costs a step, without a model: ``python tests/engine/bench_engine.py``."""

import gc
import random
import statistics
import time

from segue.core.batch import ScheduledBatch, StepOutput
from segue.core.output import EngineStep, TokenOutput
from segue.core.request import Request, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.ipc import decode, encode

TOKENS = (TokenOutput(5, -1.0),)


class NullRunner:
    """Costs as little as it can; what it costs is kept in ``last_s``."""

    last_s = 0.0

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        start = time.perf_counter()
        output = StepOutput(tokens={s.seq_id: TOKENS for s in batch.sequences if s.needs_token})
        self.last_s = time.perf_counter() - start
        return output


def make_engine(num_running: int, num_prompt_tokens: int) -> tuple[Engine, NullRunner]:
    runner = NullRunner()
    engine = Engine(
        EngineConfig(num_blocks=100_000, max_batch_size=num_running, max_batch_prefill_tokens=10_000_000), runner
    )
    for i in range(num_running):
        prompt = tuple(range(i, i + num_prompt_tokens))
        engine.add(Request(request_id=i, prompt_token_ids=prompt, stop=StopCriteria(max_new_tokens=10_000)))
    return engine, runner


def measure(num_running: int, num_prompt_tokens: int = 200, num_steps: int = 200) -> None:
    """Prints medians in microseconds: a decode step, the framing of its message, and the step that admitted all."""
    engine, runner = make_engine(num_running, num_prompt_tokens)
    gc.collect()
    gc.freeze()
    first = engine.step()
    assert first is not None
    admit_us = (first.stats.step_s - runner.last_s) * 1e6
    steps: list[EngineStep] = []
    step_us = []
    for _ in range(num_steps):
        step = engine.step()
        assert step is not None
        steps.append(step)
        step_us.append((step.stats.step_s - runner.last_s) * 1e6)
    frame_us = []
    for step in steps:
        start = time.perf_counter()
        decode(bytes(encode(step)))
        frame_us.append((time.perf_counter() - start) * 1e6)
    median = statistics.median(step_us)
    print(
        f"{num_running:5d} running: step {median:7.0f} us ({median / num_running:5.2f} us a sequence, "
        f"99% {statistics.quantiles(step_us, n=100)[98]:7.0f}), message {statistics.median(frame_us):6.0f} us, "
        f"admission of all {admit_us:8.0f} us ({num_running * num_prompt_tokens} tokens)"
    )


def measure_saturation(num_blocks: int = 2000, num_requests: int = 1000) -> None:
    """Prints how much of the work is done twice when four times as many sequences wait as memory holds."""
    rng = random.Random(0)
    engine = Engine(EngineConfig(num_blocks=num_blocks, max_batch_prefill_tokens=2048), NullRunner())
    num_tokens = 0
    for i in range(num_requests):
        prompt = tuple(rng.randrange(1000) for _ in range(rng.randrange(20, 500)))
        max_new_tokens = rng.randrange(20, 500)
        num_tokens += len(prompt) + max_new_tokens
        engine.add(Request(request_id=i, prompt_token_ids=prompt, stop=StopCriteria(max_new_tokens=max_new_tokens)))
    num_steps = num_preemptions = num_scheduled_tokens = 0
    while (step := engine.step()) is not None:
        num_steps += 1
        num_preemptions += step.stats.num_preemptions
        num_scheduled_tokens += step.stats.num_scheduled_tokens
    print(
        f"{num_blocks} blocks, {num_requests} requests: {num_steps} steps, {num_preemptions} preemptions, "
        f"{num_scheduled_tokens / num_tokens:.3f} tokens computed for each token served"
    )


if __name__ == "__main__":
    for num_running in (1, 16, 64, 256, 1024):
        measure(num_running)
    measure_saturation()
