from collections.abc import Iterable

import pytest
from fakes import FakeRunner, expected_tokens, make_request

from segue.core.batch import ScheduledBatch, StepOutput
from segue.core.output import FinishReason, RequestOutput, TokenOutput
from segue.core.request import Request, SamplingParams
from segue.engine.config import EngineConfig
from segue.engine.scheduler import Scheduler


def make_scheduler(*requests: Request, num_blocks: int = 64, block_size: int = 4, **config: int) -> Scheduler:
    scheduler = Scheduler(EngineConfig(num_blocks=num_blocks, block_size=block_size, **config))
    for request in requests:
        scheduler.add(request)
    return scheduler


def shape(batch: ScheduledBatch | None) -> list[tuple[int, int]]:
    """(seq_id, number of tokens) of each sequence; requests are numbered as they are added, from 0."""
    return [] if batch is None else [(s.seq_id, len(s.token_ids)) for s in batch.sequences]


def run(scheduler: Scheduler, runner: FakeRunner | None = None, max_steps: int = 500) -> dict[int, list[RequestOutput]]:
    """Run all to the end. Request id → outputs."""
    runner = runner or FakeRunner(block_size=scheduler.blocks.block_size)
    outputs: dict[int, list[RequestOutput]] = {}
    for _ in range(max_steps):
        batch = scheduler.schedule()
        if batch is None:
            return outputs
        collect(outputs, scheduler.update(batch, runner.execute(batch)))
        scheduler.check_invariants()
    raise AssertionError(f"not done after {max_steps} steps")


def collect(outputs: dict[int, list[RequestOutput]], new: Iterable[RequestOutput]) -> None:
    for output in new:
        outputs.setdefault(output.request_id, []).append(output)


def tokens_of(outputs: list[RequestOutput]) -> list[int]:
    return [token.token_id for output in outputs for token in output.tokens]


def step(scheduler: Scheduler, *token_ids: int) -> tuple[ScheduledBatch, list[RequestOutput]]:
    """One step in which each sequence that needs a token samples ``token_ids``."""
    batch = scheduler.schedule()
    assert batch is not None
    tokens = tuple(TokenOutput(token_id, -1.0) for token_id in token_ids or (7,))
    return batch, scheduler.update(
        batch, StepOutput(tokens={s.seq_id: tokens for s in batch.sequences if s.needs_token})
    )


# Budget, chunks and order


def test_nothing_to_do() -> None:
    scheduler = make_scheduler()
    assert scheduler.schedule() is None
    assert not scheduler.has_work


def test_prompts_share_the_budget_in_the_order_of_arrival_and_the_last_is_cut() -> None:
    prompts = [range(100, 105), range(200, 204), range(300, 310), range(400, 401)]
    scheduler = make_scheduler(*(make_request(i, p) for i, p in enumerate(prompts)), max_batch_prefill_tokens=12)
    batch, _ = step(scheduler)
    assert shape(batch) == [(0, 5), (1, 4), (2, 3)]
    assert [s.needs_token for s in batch.sequences] == [True, True, False]
    batch, _ = step(scheduler)
    assert shape(batch) == [(0, 1), (1, 1), (2, 7), (3, 1)]
    assert batch.num_decode_sequences == 2
    assert [s.needs_token for s in batch.sequences] == [True] * 4


def test_decodes_come_first_in_batch_and_budget() -> None:
    scheduler = make_scheduler(
        make_request(0, range(20)), make_request(1, [50]), max_batch_prefill_tokens=8, max_chunk_tokens=6
    )
    assert shape(step(scheduler)[0]) == [(0, 6), (1, 1)]
    batch, _ = step(scheduler)
    assert shape(batch) == [(1, 1), (0, 6)]
    assert batch.num_decode_sequences == 1


def test_the_last_token_of_a_prompt_is_prefill() -> None:
    scheduler = make_scheduler(make_request(0, range(5)), max_batch_prefill_tokens=4)
    step(scheduler)
    batch, _ = step(scheduler)
    assert shape(batch) == [(0, 1)]
    assert batch.num_decode_sequences == 0


def test_a_long_prompt_leaves_room_for_others_with_a_chunk_limit() -> None:
    scheduler = make_scheduler(
        make_request(0, range(100)), make_request(1, range(200, 205)), max_batch_prefill_tokens=16, max_chunk_tokens=7
    )
    assert shape(step(scheduler)[0]) == [(0, 7), (1, 5)]


def test_no_more_sequences_run_than_the_batch_may_hold() -> None:
    scheduler = make_scheduler(*(make_request(i, [i], max_new_tokens=2) for i in range(5)), max_batch_size=2)
    assert shape(step(scheduler)[0]) == [(0, 1), (1, 1)]
    assert shape(step(scheduler)[0]) == [(0, 1), (1, 1)]
    assert shape(step(scheduler)[0]) == [(2, 1), (3, 1)]


def test_a_budget_of_one_token_serves_all() -> None:
    requests = [make_request(i, range(i, i + 6), max_new_tokens=5) for i in range(4)]
    outputs = run(make_scheduler(*requests, max_batch_prefill_tokens=1))
    assert [tokens_of(outputs[i]) for i in range(4)] == [expected_tokens(range(i, i + 6), 5) for i in range(4)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_chunks_do_not_change_the_tokens(chunk: int) -> None:
    requests = [make_request(i, range(i, 3 * i + 5), max_new_tokens=10) for i in range(16)]
    outputs = run(make_scheduler(*requests, max_chunk_tokens=chunk))
    assert all(tokens_of(outputs[i]) == expected_tokens(range(i, 3 * i + 5), 10) for i in range(16))


# Stop criteria


@pytest.mark.parametrize(
    ("sampled", "max_new_tokens", "ignore_eos", "expected"),
    [
        ([5], 3, False, ([5], None)),
        ([2], 3, False, ([2], FinishReason.EOS_TOKEN)),
        ([2], 1, False, ([2], FinishReason.LENGTH)),
        ([2], 3, True, ([2], None)),
        ([5], 1, True, ([5], FinishReason.LENGTH)),
        ([5, 2, 6], 9, False, ([5, 2], FinishReason.EOS_TOKEN)),
        ([5, 2, 6], 2, False, ([5, 2], FinishReason.LENGTH)),
        ([5, 2, 6], 9, True, ([5, 2, 6], None)),
        ([5, 6, 7], 2, False, ([5, 6], FinishReason.LENGTH)),
    ],
)
def test_stop_criteria(
    sampled: list[int], max_new_tokens: int, ignore_eos: bool, expected: tuple[list[int], FinishReason | None]
) -> None:
    sampling = SamplingParams(ignore_eos=ignore_eos)
    scheduler = make_scheduler(make_request(0, max_new_tokens=max_new_tokens, eos=[2, 3], sampling=sampling))
    _, (output,) = step(scheduler, *sampled)
    assert ([token.token_id for token in output.tokens], output.finish_reason) == expected
    assert scheduler.has_work == (expected[1] is None)


def test_several_tokens_at_a_time_are_all_computed() -> None:
    scheduler = make_scheduler(make_request(0, range(6), max_new_tokens=8))
    outputs = run(scheduler, FakeRunner(block_size=4, num_tokens=3))
    assert [len(output.tokens) for output in outputs[0]] == [3, 3, 2]
    assert tokens_of(outputs[0]) == expected_tokens(range(6), 8)


def test_a_runner_that_gives_no_token_fails_that_request_only() -> None:
    scheduler = make_scheduler(make_request(0, [1]), make_request(1, [2]))
    batch = scheduler.schedule()
    assert batch is not None
    outputs = scheduler.update(batch, StepOutput(tokens={1: (TokenOutput(7, -1.0),)}))
    assert [(o.request_id, o.error) for o in outputs] == [(0, "the model gave no token"), (1, None)]
    scheduler.check_invariants()


# The first output


def test_the_first_output_tells_what_was_cached_and_when_it_began() -> None:
    scheduler = make_scheduler(make_request(0, range(9)), make_request(1, range(9)))
    outputs = run(scheduler)
    assert (outputs[0][0].num_cached_tokens, outputs[1][0].num_cached_tokens) == (0, 8)
    assert outputs[0][0].scheduled_time is not None
    assert {o.scheduled_time for o in outputs[0][1:]} == {None}


def test_prompt_logprobs_are_gathered_over_chunks_and_bypass_the_cache() -> None:
    sampling = SamplingParams(prompt_logprobs=True)
    scheduler = make_scheduler(
        make_request(0, range(10)), make_request(1, range(10), sampling=sampling), max_batch_prefill_tokens=4
    )
    outputs = run(scheduler)
    assert outputs[1][0].prompt_logprobs == (None, *(-float(i) for i in range(1, 10)))
    assert outputs[1][0].num_cached_tokens == 0
    assert {o.prompt_logprobs for o in (*outputs[0], *outputs[1][1:])} == {None}


# Memory


def test_what_the_pool_can_never_hold_is_refused_at_once() -> None:
    # 16 slots; the last token needs none.
    scheduler = make_scheduler(
        make_request(0, range(9), max_new_tokens=8), make_request(1, range(9), max_new_tokens=9), num_blocks=4
    )
    scheduler.add(make_request(2, [1], max_new_tokens=8, encoder=range(9)))
    (refused, refused_encoder) = scheduler.take_refused()
    assert (refused.request_id, refused.error) == (1, "the request needs 5 cache blocks, the server has 4")
    assert (refused_encoder.request_id, refused_encoder.error) == (
        2,
        "the request needs 5 cache blocks, the server has 4",
    )
    assert scheduler.take_refused() == []
    assert tokens_of(run(scheduler)[0]) == expected_tokens(range(9), 8)


@pytest.mark.parametrize(
    "request_",
    [
        make_request(0, []),
        make_request(0, encoder=[]),
        make_request(0, max_new_tokens=0),
    ],
)
def test_senseless_requests_are_refused(request_: Request) -> None:
    scheduler = make_scheduler(request_)
    assert scheduler.has_work
    assert scheduler.take_refused()[0].error
    assert not scheduler.has_work


def test_a_live_id_is_not_taken_twice() -> None:
    scheduler = make_scheduler(make_request(0))
    with pytest.raises(ValueError, match="live already"):
        scheduler.add(make_request(0))
    run(scheduler)
    scheduler.add(make_request(0))


def test_the_youngest_is_preempted_and_comes_back() -> None:
    requests = [make_request(i, range(10 * i, 10 * i + 4), max_new_tokens=12) for i in range(3)]
    scheduler = make_scheduler(*requests, num_blocks=7)
    runner = FakeRunner(block_size=4)
    ends: list[int] = []
    num_preemptions = 0
    outputs: dict[int, list[RequestOutput]] = {}
    while (batch := scheduler.schedule()) is not None:
        num_preemptions += scheduler.counts.num_preemptions
        if scheduler.counts.num_preemptions:
            assert 0 in [s.seq_id for s in batch.sequences]
        new = scheduler.update(batch, runner.execute(batch))
        collect(outputs, new)
        ends += [output.request_id for output in new if output.finish_reason]
        scheduler.check_invariants()
    assert num_preemptions >= 2
    assert ends == [0, 1, 2]
    assert [tokens_of(outputs[i]) for i in range(3)] == [
        expected_tokens(range(10 * i, 10 * i + 4), 12) for i in range(3)
    ]


def test_a_preempted_sequence_finds_its_blocks_again() -> None:
    scheduler = make_scheduler(
        make_request(0, range(4), max_new_tokens=14), make_request(1, range(50, 58), max_new_tokens=8), num_blocks=6
    )
    runner = FakeRunner(block_size=4)
    starts = []
    while (batch := scheduler.schedule()) is not None:
        starts += [s.num_computed_tokens for s in batch.sequences if s.seq_id == 1 and len(s.token_ids) > 1]
        scheduler.update(batch, runner.execute(batch))
    assert starts[0] == 0
    assert len(starts) > 1
    assert min(starts[1:]) > 0


def test_two_sequences_that_do_not_fit_together_do_not_preempt_each_other_for_ever() -> None:
    requests = [make_request(i, range(10 * i, 10 * i + 8), max_new_tokens=25) for i in range(2)]
    scheduler = make_scheduler(*requests, num_blocks=8)
    outputs = run(scheduler, max_steps=60)
    assert [tokens_of(outputs[i]) for i in range(2)] == [
        expected_tokens(range(10 * i, 10 * i + 8), 25) for i in range(2)
    ]


def test_a_new_sequence_leaves_a_block_to_those_that_run() -> None:
    scheduler = make_scheduler(make_request(0, range(4)), make_request(1, range(50, 58)), num_blocks=3)
    assert shape(step(scheduler)[0]) == [(0, 4)]


def test_a_waiting_sequence_is_not_overtaken() -> None:
    scheduler = make_scheduler(
        make_request(0, range(16), max_new_tokens=3),
        make_request(1, range(50, 66), max_new_tokens=3),
        make_request(2, [1], max_new_tokens=3),
        num_blocks=8,
    )
    assert shape(step(scheduler)[0]) == [(0, 16)]
    assert len(scheduler.waiting) == 2


# Prefix cache


def test_equal_prompts_in_one_step_are_computed_once() -> None:
    scheduler = make_scheduler(*(make_request(i, range(9)) for i in range(3)))
    batch = scheduler.schedule()
    assert shape(batch) == [(0, 9), (1, 1), (2, 1)]
    assert scheduler.counts.num_cached_tokens == 16
    assert scheduler.counts.num_queried_tokens == 27


def test_the_answer_is_found_by_the_next_turn() -> None:
    scheduler = make_scheduler(make_request(0, range(6), max_new_tokens=8))
    answer = tokens_of(run(scheduler)[0])
    scheduler.add(make_request(1, [*range(6), *answer, 1, 2, 3]))
    assert shape(scheduler.schedule()) == [(1, 17 - 12)]


# Encoder inputs


def encoder_runs(batch: ScheduledBatch | None) -> list[tuple[int, bool]]:
    return [(s.seq_id, s.encoder.run) for s in batch.sequences if s.encoder] if batch else []


def test_an_encoder_input_runs_once_for_all_that_share_it() -> None:
    scheduler = make_scheduler(*(make_request(i, [0], encoder=[5, 6, i // 2], max_new_tokens=3) for i in range(4)))
    batch, _ = step(scheduler)
    assert encoder_runs(batch) == [(0, True), (1, False), (2, True), (3, False)]
    scheduler.add(make_request(4, [0], encoder=[5, 6, 0]))
    assert encoder_runs(step(scheduler)[0]) == [(i, False) for i in range(5)]
    step(scheduler)
    scheduler.abort([4])
    scheduler.add(make_request(5, [0], encoder=[5, 6, 1]))
    assert encoder_runs(step(scheduler)[0]) == [(5, False)]


def test_an_encoder_input_counts_in_the_budget_and_is_not_cut() -> None:
    requests = [make_request(i, [0], encoder=range(10 * i, 10 * i + 6)) for i in range(3)]
    scheduler = make_scheduler(*requests, max_batch_prefill_tokens=15)
    assert shape(step(scheduler)[0]) == [(0, 1), (1, 1)]
    assert scheduler.counts.num_prefill_tokens == 14
    assert shape(step(scheduler)[0]) == [(0, 1), (1, 1), (2, 1)]


def test_an_encoder_input_beyond_the_budget_is_the_only_prefill_of_its_step() -> None:
    scheduler = make_scheduler(
        make_request(0, range(3)),
        make_request(1, [0, 1], encoder=range(30)),
        make_request(2, [5]),
        max_batch_prefill_tokens=8,
    )
    assert shape(step(scheduler)[0]) == [(0, 3)]
    batch, _ = step(scheduler)
    assert shape(batch) == [(0, 1), (1, 1)]
    assert encoder_runs(batch) == [(1, True)]
    assert scheduler.counts.num_scheduled_tokens == 32
    assert shape(step(scheduler)[0]) == [(0, 1), (1, 1), (2, 1)]


def test_an_encoder_input_is_not_kept_from_running_by_endless_decodes() -> None:
    scheduler = make_scheduler(*(make_request(i, [i], max_new_tokens=50) for i in range(5)), max_batch_prefill_tokens=8)
    step(scheduler)
    scheduler.add(make_request(5, [0], encoder=range(6)))
    assert shape(step(scheduler)[0])[-1] == (5, 1)


def test_a_source_cached_costs_no_budget() -> None:
    scheduler = make_scheduler(make_request(0, [0], encoder=range(30)), max_batch_prefill_tokens=8)
    step(scheduler)
    scheduler.add(make_request(1, [5, 6]))
    scheduler.add(make_request(2, [0, 1], encoder=range(30)))
    assert shape(step(scheduler)[0]) == [(0, 1), (1, 2), (2, 2)]


# Abort


def test_abort_frees_a_waiting_and_a_running_request_at_once() -> None:
    scheduler = make_scheduler(*(make_request(i, range(8)) for i in range(3)), max_batch_size=2)
    step(scheduler)
    scheduler.abort([0, 2, 99])
    scheduler.check_invariants()
    assert (len(scheduler.running), len(scheduler.waiting)) == (1, 0)
    scheduler.abort([1])
    assert scheduler.blocks.num_free_blocks == 64
    assert not scheduler.has_work


def test_the_result_of_a_request_aborted_during_its_step_is_dropped() -> None:
    scheduler = make_scheduler(make_request(0, range(8)), make_request(1, range(50, 58)))
    batch = scheduler.schedule()
    assert batch is not None
    scheduler.abort([0])
    assert scheduler.blocks.num_free_blocks == 62
    scheduler.add(make_request(0, [9, 9]))  # the id is free again, the old result is not its own
    runner = FakeRunner(block_size=4)
    outputs = scheduler.update(batch, runner.execute(batch))
    assert [output.request_id for output in outputs] == [1]
    scheduler.check_invariants()
    assert tokens_of(run(scheduler, runner)[0]) == expected_tokens([9, 9], 4)


# Failed steps


def test_what_a_failed_sequence_was_to_compute_is_not_found() -> None:
    runner = FakeRunner(block_size=4)
    scheduler = make_scheduler(make_request(0, range(9)))
    batch = scheduler.schedule()
    assert batch is not None
    (output,) = scheduler.fail(batch, "boom")
    assert (output.error, scheduler.blocks.num_free_blocks) == ("boom", 64)
    scheduler.add(make_request(1, range(9)))
    outputs = run(scheduler, runner)
    assert outputs[1][0].num_cached_tokens == 0


def test_sequences_that_share_blocks_of_a_failed_one_go_back_to_waiting() -> None:
    scheduler = make_scheduler(
        make_request(0, [0], encoder=range(6)),  # fails
        make_request(1, [0, 1], encoder=range(6)),  # shares its encoder blocks
        make_request(2, range(9)),  # fails
        make_request(3, [*range(9), 20, 21, 22, 23]),  # shares its blocks, fills one more
        make_request(4, [*range(9), 20, 21, 22, 23]),  # shares that one
        make_request(5, range(50, 59)),
    )
    batch = scheduler.schedule()
    assert batch is not None
    parts = {s.seq_id: ScheduledBatch(sequences=[s], num_decode_sequences=0) for s in batch.sequences}
    scheduler.fail(parts[0], "boom")
    scheduler.fail(parts[2], "boom")
    rest = scheduler.retract(
        ScheduledBatch(sequences=batch.sequences[3:] + batch.sequences[1:2], num_decode_sequences=0)
    )
    assert shape(rest) == [(5, 9)]
    assert list(scheduler.waiting) == [1, 3, 4]
    assert rest is not None
    runner = FakeRunner(block_size=4)
    outputs: dict[int, list[RequestOutput]] = {}
    collect(outputs, scheduler.update(rest, runner.execute(rest)))
    scheduler.check_invariants()
    for request_id, new in run(scheduler, runner).items():
        collect(outputs, new)
        assert new[-1].finish_reason is FinishReason.LENGTH, request_id
    assert sorted(outputs) == [1, 3, 4, 5]


def test_a_retracted_sequence_is_older_than_one_preempted_later() -> None:
    """It waits beside running ones that are younger: both queues must stay in the order of age."""
    prompts = [range(9), range(9), range(50, 58), range(3)]
    scheduler = make_scheduler(*(make_request(i, p) for i, p in enumerate(prompts)), max_batch_size=3)
    batch = scheduler.schedule()
    assert batch is not None
    failed, shared, other = (ScheduledBatch(sequences=[s], num_decode_sequences=0) for s in batch.sequences)
    scheduler.fail(failed, "boom")
    assert scheduler.retract(shared) is None
    scheduler.update(other, FakeRunner(block_size=4).execute(other))
    scheduler._preempt(scheduler.running[0])
    scheduler.check_invariants()
    assert list(scheduler.waiting) == [1, 2, 3]
    assert shape(scheduler.schedule()) == [(1, 9), (2, 1), (3, 3)]


def test_a_step_must_be_completed_before_the_next() -> None:
    scheduler = make_scheduler(make_request(0))
    scheduler.schedule()
    with pytest.raises(AssertionError, match="not completed"):
        scheduler.schedule()


def test_what_a_sequence_with_unusable_logits_held_is_not_found() -> None:
    """Not by its own retry, and not if it was aborted while its step ran."""
    prompt = list(range(9))
    for is_aborted in (False, True):
        spoiled = [0]
        runner = FakeRunner(block_size=4, spoils=lambda s: s.seq_id in spoiled)  # noqa: B023
        scheduler = make_scheduler(make_request(0, prompt, encoder=range(6)))
        batch = scheduler.schedule()
        assert batch is not None
        if is_aborted:
            scheduler.abort([0])
        outputs = scheduler.update(batch, runner.execute(batch))
        assert [output.error for output in outputs] == ([] if is_aborted else ["not finite"])
        assert scheduler.blocks.num_free_blocks == 64
        scheduler.add(make_request(1, prompt, encoder=range(6)))
        assert tokens_of(run(scheduler, runner)[1]) == expected_tokens(prompt, 4, encoder=range(6))


def test_the_others_go_on_beside_a_sequence_with_unusable_logits() -> None:
    """Two that share its blocks keep them, though nobody else finds them any more."""
    runner = FakeRunner(block_size=4, spoils=lambda s: s.seq_id == 0 and len(s.history) == 10)
    scheduler = make_scheduler(*(make_request(i, [*range(8), i], max_new_tokens=6) for i in range(3)))
    outputs = run(scheduler, runner)
    assert [output.error for output in outputs[0]] == [None, "not finite"]
    for i in (1, 2):
        assert tokens_of(outputs[i]) == expected_tokens([*range(8), i], 6)
    scheduler.add(make_request(3, [*range(8), 3]))
    assert run(scheduler, runner)[3][0].num_cached_tokens == 0
