import pytest
from fakes import FakeRunner, expected_tokens, make_request

from segue.core.batch import ScheduledBatch, ScheduledSequence, StepOutput
from segue.core.errors import EngineDeadError
from segue.core.output import EngineStep, RequestOutput
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine


def make_engine(runner: object | None = None, *, num_blocks: int = 64, **config: int) -> Engine:
    return Engine(EngineConfig(num_blocks=num_blocks, block_size=4, **config), runner or FakeRunner(block_size=4))  # type: ignore[arg-type]


def run(engine: Engine) -> dict[int, list[RequestOutput]]:
    outputs: dict[int, list[RequestOutput]] = {}
    while engine.has_work:
        for output in must_step(engine).outputs:
            outputs.setdefault(output.request_id, []).append(output)
        engine.scheduler.check_invariants()
    return outputs


def must_step(engine: Engine) -> EngineStep:
    step = engine.step()
    assert step is not None
    return step


def tokens_of(outputs: list[RequestOutput]) -> list[int]:
    return [token.token_id for output in outputs for token in output.tokens]


def has_culprit(s: ScheduledSequence) -> bool:
    return 666 in s.history


def test_it_serves_requests_that_come_and_go() -> None:
    engine = make_engine()
    assert engine.step() is None
    engine.add(make_request(0, range(5), max_new_tokens=3))
    must_step(engine)
    engine.add(make_request(1, range(7), max_new_tokens=2))
    outputs = run(engine)
    assert tokens_of(outputs[0]) == expected_tokens(range(5), 3)[1:]
    assert tokens_of(outputs[1]) == expected_tokens(range(7), 2)
    assert engine.step() is None


def test_an_abort_is_told_by_the_gauges_of_a_step_without_work() -> None:
    engine = make_engine()
    engine.add(make_request(0, range(9)))
    assert must_step(engine).stats.num_used_blocks == 3
    engine.abort([0])
    assert engine.has_work
    step = must_step(engine)
    assert (step.outputs, step.stats.num_used_blocks, step.stats.num_running) == ((), 0, 0)
    assert step.stats.num_total_blocks == 64
    assert not engine.has_work


def test_a_refused_request_gets_its_error_in_the_next_step() -> None:
    engine = make_engine(num_blocks=2)
    engine.add(make_request(0, range(50)))
    (output,) = must_step(engine).outputs
    assert output.error == "the request needs 14 cache blocks, the server has 2"


def test_stats_of_a_mixed_step() -> None:
    engine = make_engine(max_batch_prefill_tokens=20)
    engine.add(make_request(0, range(9), max_new_tokens=6))
    must_step(engine)
    engine.add(make_request(1, range(12), max_new_tokens=5))
    engine.add(make_request(2, [0], encoder=range(4), max_new_tokens=7))
    engine.add(make_request(3, range(100, 130), max_new_tokens=8))
    engine.add(make_request(4, [1]))
    stats = must_step(engine).stats
    assert stats.num_decode_sequences == 1
    assert stats.num_prefill_sequences == 3
    assert stats.num_prefill_tokens == 4 + (1 + 4) + 10
    assert stats.num_scheduled_tokens == 1 + stats.num_prefill_tokens
    assert stats.num_new_sequences == 3
    assert stats.num_cached_tokens == 8
    assert stats.num_queried_tokens == 12 + 5 + 30
    assert (stats.num_running, stats.num_waiting) == (4, 1)
    assert stats.num_running_tokens == 15 + 17 + 12 + 38
    assert stats.num_used_blocks == 3 + 1 + 2 + 3
    assert stats.num_preemptions == 0
    assert (stats.forward_s, stats.sample_s) == (0.002, 0.001)
    assert stats.step_s > 0


def test_preemptions_are_counted() -> None:
    engine = make_engine(num_blocks=6)
    for i in range(2):
        engine.add(make_request(i, range(10 * i, 10 * i + 8), max_new_tokens=10))
    num_preemptions = 0
    while engine.has_work:
        num_preemptions += must_step(engine).stats.num_preemptions
    assert num_preemptions == 1


@pytest.mark.parametrize("culprit", range(9))
def test_only_the_culprit_of_a_failed_step_fails(culprit: int) -> None:
    engine = make_engine(FakeRunner(block_size=4, fails=has_culprit))
    prompts = [[*range(i, i + 6), *([666] if i == culprit else [])] for i in range(9)]
    for i, prompt in enumerate(prompts):
        engine.add(make_request(i, prompt))
    outputs = run(engine)
    assert outputs.pop(culprit) == [RequestOutput(request_id=culprit, error="the fake device failed")]
    assert {i: tokens_of(out) for i, out in outputs.items()} == {i: expected_tokens(prompts[i], 4) for i in outputs}


def test_a_culprit_among_many_costs_few_extra_steps() -> None:
    runner = FakeRunner(block_size=4, fails=has_culprit)
    engine = make_engine(runner, num_blocks=256)
    for i in range(64):
        engine.add(make_request(i, [i, *([666] if i == 37 else [])]))
    must_step(engine)
    assert len(runner.batches) == 1 + 2 * 6


def test_sharers_of_a_culprits_blocks_recompute_them() -> None:
    engine = make_engine(FakeRunner(block_size=4, fails=has_culprit))
    engine.add(make_request(0, [*range(8), 666]))
    engine.add(make_request(1, [*range(8), 5]))
    engine.add(make_request(2, [*range(8), 6]))
    step = must_step(engine)
    assert [(o.request_id, bool(o.error)) for o in step.outputs] == [(0, True)]
    assert (step.stats.num_running, step.stats.num_waiting) == (0, 2)
    engine.scheduler.check_invariants()
    outputs = run(engine)
    assert tokens_of(outputs[1]) == expected_tokens([*range(8), 5], 4)
    assert tokens_of(outputs[2]) == expected_tokens([*range(8), 6], 4)


def test_a_sharer_of_a_culprits_encoder_input_runs_it_itself() -> None:
    engine = make_engine(FakeRunner(block_size=4, fails=has_culprit))
    engine.add(make_request(0, [0, 666], encoder=range(6)))
    engine.add(make_request(1, [0, 1], encoder=range(6)))
    outputs = run(engine)
    assert outputs[0][0].error
    assert tokens_of(outputs[1]) == expected_tokens([0, 1], 4, encoder=range(6))


class LimitedRunner:
    """Out of memory with more than ``limit`` sequences."""

    def __init__(self, limit: int, error: Exception) -> None:
        self.inner = FakeRunner(block_size=4)
        self.limit = limit
        self.error = error

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        if len(batch.sequences) > self.limit:
            raise self.error
        return self.inner.execute(batch)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("out of memory"), IndexError("index 7")])
def test_a_batch_too_large_for_the_device_is_run_in_parts(error: Exception) -> None:
    engine = make_engine(LimitedRunner(3, error))
    for i in range(10):
        engine.add(make_request(i, range(i, i + 9)))
    step = must_step(engine)
    assert (len(step.outputs), step.stats.forward_s) == (10, pytest.approx(4 * 0.002))
    outputs = run(engine)
    assert {i: tokens_of(out) for i, out in outputs.items()} == {
        i: expected_tokens(range(i, i + 9), 4)[1:] for i in range(10)
    }


@pytest.mark.parametrize(("error", "text"), [(MemoryError(), "MemoryError"), (ValueError("bad shape"), "bad shape")])
def test_the_engine_goes_on_after_a_request_failed_alone(error: Exception, text: str) -> None:
    runner = LimitedRunner(0, error)
    engine = make_engine(runner)
    engine.add(make_request(0))
    assert run(engine)[0][0].error == text
    runner.limit = 9
    engine.add(make_request(1))
    assert tokens_of(run(engine)[1]) == expected_tokens([1, 2, 3], 4)


def test_a_dead_device_ends_the_engine() -> None:
    engine = make_engine(LimitedRunner(0, EngineDeadError("the device is lost")))
    engine.add(make_request(0))
    with pytest.raises(EngineDeadError):
        engine.step()


def test_failed_executions_are_counted_by_what_they_ran() -> None:
    """A prompt, then a decode; each step has a culprit, alone or beside another."""
    engine = make_engine(FakeRunner(block_size=4, fails=has_culprit))
    engine.add(make_request(0, [1, 666]))
    stats = must_step(engine).stats
    assert (stats.num_failed_prefills, stats.num_failed_decodes, stats.has_failed) == (1, 0, True)
    engine.add(make_request(1, [1, 2]))
    engine.add(make_request(2, [1, 666]))
    stats = must_step(engine).stats
    assert (stats.num_failed_prefills, stats.num_failed_decodes, stats.has_failed) == (2, 0, False)
    stats = must_step(engine).stats
    assert (stats.num_failed_prefills, stats.num_failed_decodes, stats.has_failed) == (0, 0, False)
    assert 0 < stats.schedule_s + stats.update_s <= stats.step_s
    broken = LimitedRunner(0, RuntimeError("broken"))
    engine._runner = broken
    stats = must_step(engine).stats
    assert (stats.num_failed_prefills, stats.num_failed_decodes, stats.has_failed) == (0, 1, True)
