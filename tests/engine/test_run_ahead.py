"""How far decodes may go by themselves, and what becomes of it."""

from typing import Any

import pytest
from fakes import FakeRunner, expected_tokens, make_request

from segue.core.output import EngineStep, FinishReason
from segue.core.request import SamplingParams
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.gathering import Gathering
from segue.engine.run_ahead import MOST_STEPS

BLOCK_SIZE = 4
FOREVER_S = 1000.0


def engine_of(*, most_steps: int = 1000, **changes: Any) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(block_size=BLOCK_SIZE, most_steps=lambda: most_steps)
    given = {"num_blocks": 100, "block_size": BLOCK_SIZE, "run_ahead": Gathering(FOREVER_S)} | changes
    return Engine(EngineConfig(**given), runner), runner


def steps_of(engine: Engine, most: int = 1000) -> list[EngineStep]:
    steps = []
    while engine.has_work and len(steps) < most:
        step = engine.step()
        engine.scheduler.check_invariants()
        assert step is not None
        steps.append(step)
    return steps


def tokens_of(steps: list[EngineStep], request_id: int = 0) -> list[int]:
    outputs = [output for step in steps for output in step.outputs if output.request_id == request_id]
    return [token.token_id for output in outputs for token in output.tokens]


def test_after_a_measured_decode_all_that_is_left_comes_at_once() -> None:
    engine, _ = engine_of()
    engine.add(make_request(0, [1, 2, 3], max_new_tokens=30))
    steps = steps_of(engine)
    assert [step.stats.num_steps for step in steps] == [1, 1, 28]
    assert tokens_of(steps) == expected_tokens([1, 2, 3], 30)
    assert steps[-1].outputs[0].finish_reason is FinishReason.LENGTH
    assert [output.num_steps for step in steps for output in step.outputs] == [1, 1, 28]
    assert steps[-1].stats.num_scheduled_tokens == 28


def test_steps_take_as_long_as_they_may() -> None:
    engine, runner = engine_of(run_ahead=Gathering(0.0095))  # a step of the fake takes 3 ms
    engine.add(make_request(0, max_new_tokens=10))
    steps_of(engine)
    assert [batch.max_steps for batch in runner.batches if batch.num_decode_sequences][:2] == [1, 3]


def test_never_more_than_the_most() -> None:
    engine, _ = engine_of()
    engine.add(make_request(0, max_new_tokens=2 * MOST_STEPS))
    assert max(step.stats.num_steps for step in steps_of(engine)) == MOST_STEPS


def test_it_ends_with_the_first_sequence_that_does() -> None:
    engine, _ = engine_of()
    for request_id, num_new in enumerate((20, 9, 14)):
        engine.add(make_request(request_id, [request_id], max_new_tokens=num_new))
    steps = steps_of(engine)
    assert [step.stats.num_steps for step in steps] == [1, 1, 7, 5, 6]
    for request_id, num_new in enumerate((20, 9, 14)):
        assert tokens_of(steps, request_id) == expected_tokens([request_id], num_new)


def test_it_ends_at_an_end_of_sequence() -> None:
    engine, runner = engine_of()
    expected = expected_tokens([5], 30)
    eos = next(token for i, token in enumerate(expected) if i > 8 and token not in expected[:i])
    engine.add(make_request(0, [5], max_new_tokens=30, eos=[eos]))
    engine.add(make_request(1, [6], max_new_tokens=40))
    steps = steps_of(engine)
    assert tokens_of(steps) == expected[: expected.index(eos) + 1]
    assert tokens_of(steps, 1) == expected_tokens([6], 40)
    assert {frozenset({eos}), frozenset()} == {batch.stop_token_ids for batch in runner.batches if batch.max_steps > 1}


def test_an_end_that_is_to_be_ignored_ends_nothing() -> None:
    engine, runner = engine_of()
    eos = expected_tokens([5], 9)[-1]
    engine.add(make_request(0, [5], max_new_tokens=30, eos=[eos], sampling=SamplingParams(ignore_eos=True)))
    assert tokens_of(steps_of(engine)) == expected_tokens([5], 30)
    assert {batch.stop_token_ids for batch in runner.batches} == {frozenset()}


@pytest.mark.parametrize(
    "sampling", [SamplingParams(watermark=True), SamplingParams(prompt_logprobs=True)], ids=["watermark", "prompt"]
)
def test_one_request_that_wants_more_is_enough(sampling: SamplingParams) -> None:
    engine, runner = engine_of()
    engine.add(make_request(0, max_new_tokens=9))
    engine.add(make_request(1, max_new_tokens=9, sampling=sampling))
    steps_of(engine)
    assert {batch.max_steps for batch in runner.batches} == {1}


def test_sampled_requests_go_on_too() -> None:
    engine, runner = engine_of()
    sampling = SamplingParams(do_sample=True, temperature=0.7, top_p=0.9, repetition_penalty=1.1, top_n_tokens=2)
    engine.add(make_request(0, max_new_tokens=9, sampling=sampling))
    engine.add(make_request(1, max_new_tokens=9))
    steps_of(engine)
    assert max(batch.max_steps for batch in runner.batches) > 1


def test_nobody_waits_for_it() -> None:
    engine, runner = engine_of(max_batch_size=1)
    for request_id in range(2):
        engine.add(make_request(request_id, max_new_tokens=9))
    steps_of(engine)
    assert {batch.max_steps for batch in runner.batches[:9]} == {1}
    assert max(batch.max_steps for batch in runner.batches[9:]) == 8


def test_without_it_steps_are_single() -> None:
    engine, runner = engine_of(run_ahead=None)
    engine.add(make_request(0, max_new_tokens=30))
    assert tokens_of(steps_of(engine)) == expected_tokens([1, 2, 3], 30)
    assert {batch.max_steps for batch in runner.batches} == {1}


def test_a_runner_that_stops_early_gives_what_it_has() -> None:
    engine, _ = engine_of(most_steps=5)
    engine.add(make_request(0, max_new_tokens=30))
    steps = steps_of(engine)
    assert [step.stats.num_steps for step in steps] == [1, 1, 5, 5, 5, 5, 5, 3]
    assert tokens_of(steps) == expected_tokens([1, 2, 3], 30)


def test_slots_come_from_what_is_free() -> None:
    """Both need all of the pool in the end; nobody is preempted for steps that are not due."""
    engine, _ = engine_of(num_blocks=10)
    for request_id in range(2):
        engine.add(make_request(request_id, [request_id, 1], max_new_tokens=22))
    steps = steps_of(engine)
    for request_id in range(2):
        assert tokens_of(steps, request_id) == expected_tokens([request_id, 1], 22)
    ahead = [step for step in steps if step.stats.num_steps > 1]
    assert ahead
    assert sum(step.stats.num_preemptions for step in ahead) == 0
    assert engine.scheduler.blocks.num_free_blocks == 10


def test_what_was_computed_can_be_found_again() -> None:
    engine, _ = engine_of()
    engine.add(make_request(0, [1, 2, 3], max_new_tokens=30))
    text = [1, 2, 3, *tokens_of(steps_of(engine))]
    engine.add(make_request(1, text, max_new_tokens=2))
    first = steps_of(engine)[0]
    assert first.outputs[0].num_cached_tokens == 32  # all blocks that were full, but for the last token's


def test_the_engine_says_who_may_interrupt() -> None:
    engine, runner = engine_of()
    engine.news_file = 12345
    engine.add(make_request(0, max_new_tokens=9))
    steps_of(engine)
    assert {batch.news_file for batch in runner.batches if batch.max_steps > 1} == {12345}
