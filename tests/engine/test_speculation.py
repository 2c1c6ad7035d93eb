"""Who guesses, how much, and that guesses take nothing from anybody."""

from typing import Any

import pytest
from fakes import FakeRunner, expected_tokens, make_request

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.core.output import FinishReason
from segue.core.request import Request, SamplingParams
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.speculation import LONGEST_PAUSE, Pace

LOOP = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
"""A prompt that goes on as its own past; FakeRunner's ``next_token`` of these tests has it do so."""


def goes_round(s: ScheduledSequence, i: int) -> int:
    return (len(s.history) - s.num_prompt_tokens + i) % 4 + 1


class Looping(FakeRunner):
    """Says 1, 2, 3, 4 for ever."""

    def _choose(self, s: ScheduledSequence, i: int, state: int) -> int:
        return goes_round(s, i)


def engine_of(runner: FakeRunner, *requests: Request, num_blocks: int = 64, **config: Any) -> Engine:
    options = {"num_speculative_tokens": 3, **config}
    engine = Engine(EngineConfig(num_blocks=num_blocks, block_size=runner.block_size, **options), runner)
    for request in requests:
        engine.add(request)
    return engine


def run(engine: Engine) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    while engine.has_work:
        step = engine.step()
        engine.scheduler.check_invariants()
        for output in step.outputs if step else ():
            assert output.error is None, output.error
            tokens.setdefault(output.request_id, []).extend(token.token_id for token in output.tokens)
    blocks = engine.scheduler.blocks
    assert blocks.num_free_blocks == blocks.num_blocks
    return tokens


def shapes(runner: FakeRunner) -> list[list[tuple[int, int]]]:
    """(tokens, guesses among them) of each sequence, step by step."""
    return [[(len(s.token_ids), s.num_draft_tokens) for s in batch.sequences] for batch in runner.batches]


def test_S7_a_text_that_repeats_comes_several_tokens_at_a_time() -> None:
    runner = Looping(block_size=4)
    engine = engine_of(runner, make_request(0, LOOP, max_new_tokens=13))
    assert run(engine) == {0: [1, 2, 3, 4] * 3 + [1]}
    assert shapes(runner) == [[(12, 0)], [(4, 3)], [(4, 3)], [(4, 3)]]


def test_S7_no_more_is_guessed_than_is_wanted() -> None:
    runner = Looping(block_size=4)
    engine = engine_of(runner, make_request(0, LOOP, max_new_tokens=4), num_speculative_tokens=10)
    assert run(engine) == {0: [1, 2, 3, 4]}
    assert shapes(runner) == [[(12, 0)], [(3, 2)]]


def test_S7_switched_off_nothing_is_guessed() -> None:
    runner = Looping(block_size=4)
    run(engine_of(runner, make_request(0, LOOP, max_new_tokens=9), num_speculative_tokens=0))
    assert all(guesses == 0 for step in shapes(runner) for _, guesses in step)


def test_S7_a_full_step_holds_no_guesses() -> None:
    """Guesses take what a step of so many tokens has left, the oldest first."""
    runner = Looping(block_size=4)
    requests = [make_request(i, LOOP, max_new_tokens=20) for i in range(6)]
    engine = engine_of(runner, *requests, max_speculative_step_tokens=10)
    assert run(engine) == {i: [1, 2, 3, 4] * 5 for i in range(6)}
    second = runner.batches[1]
    assert [(s.seq_id, s.num_draft_tokens) for s in second.sequences] == [
        (2, 0), (3, 0), (4, 0), (5, 0), (0, 3), (1, 1),
    ]  # fmt: skip
    assert second.num_decode_sequences == 4
    assert all(batch.num_tokens <= 10 for batch in runner.batches if any(s.num_draft_tokens for s in batch.sequences))

    crowded = Looping(block_size=4)
    engine = engine_of(crowded, *requests, max_speculative_step_tokens=6)
    run(engine)
    assert all(s.num_draft_tokens == 0 for batch in crowded.batches[:-1] for s in batch.sequences)


def test_S7_prompts_go_before_guesses() -> None:
    """A prompt that fills the step leaves no room: it is not made to wait for guesses."""
    runner = Looping(block_size=4)
    engine = engine_of(runner, make_request(0, LOOP, max_new_tokens=60), max_batch_prefill_tokens=12)
    for _ in range(3):
        engine.step()
    engine.add(make_request(1, range(50, 80), max_new_tokens=1))
    for _ in range(3):
        engine.step()
    assert shapes(runner)[3:] == [[(1, 0), (11, 0)], [(1, 0), (11, 0)], [(4, 3), (8, 0)]]


def test_S7_guesses_preempt_nobody() -> None:
    """The last block is taken by the second sequence: the first guesses what its own blocks hold."""
    runner = Looping(block_size=4)
    requests = [make_request(i, LOOP[: 8 + 2 * i], max_new_tokens=6) for i in range(2)]
    engine = engine_of(runner, *requests, num_blocks=7, num_speculative_tokens=8)
    num_preemptions = 0
    while engine.has_work:
        step = engine.step()
        assert step is not None
        num_preemptions += step.stats.num_preemptions
        engine.scheduler.check_invariants()
    assert num_preemptions == 0
    assert max(s.num_draft_tokens for batch in runner.batches for s in batch.sequences) > 0


def test_S7_what_fails_is_taken_back() -> None:
    """Wrong guesses leave the blocks as if there had been none."""
    runner = FakeRunner(block_size=4, guess=lambda s, i: 999)
    plain = FakeRunner(block_size=4)
    request = make_request(0, LOOP, max_new_tokens=30)
    guessing = engine_of(runner, request, has_draft_model=True)
    without = engine_of(plain, request, num_speculative_tokens=0)
    num_drafts = 0
    while without.has_work:
        ours, theirs = guessing.step(), without.step()
        assert ours is not None
        assert theirs is not None
        assert ours.outputs[0].tokens == theirs.outputs[0].tokens
        assert ours.stats.num_used_blocks == theirs.stats.num_used_blocks
        num_drafts += ours.stats.num_draft_tokens
        assert ours.stats.num_accepted_tokens == 0
    assert num_drafts > 0


def test_S7_the_cache_finds_accepted_tokens_and_no_others() -> None:
    """A block that guesses filled is registered when they came true, also with the last step of its sequence."""
    runner = Looping(block_size=4)
    engine = engine_of(runner, make_request(0, LOOP, max_new_tokens=5), num_speculative_tokens=4)
    run(engine)
    engine.add(make_request(1, [*LOOP, 1, 2, 3, 4, 1, 9], max_new_tokens=1))
    step = engine.step()
    assert step is not None
    assert step.outputs[0].num_cached_tokens == 16

    wrong = FakeRunner(block_size=4, next_token=[7])
    engine = engine_of(wrong, make_request(0, LOOP, max_new_tokens=5), num_speculative_tokens=4)
    run(engine)
    engine.add(make_request(1, [*LOOP, 7, 1, 2, 3, 4], max_new_tokens=1))
    step = engine.step()
    assert step is not None
    assert step.outputs[0].num_cached_tokens == 12


def test_S7_an_end_token_cuts_an_accepted_run() -> None:
    engine = engine_of(Looping(block_size=4), make_request(0, LOOP, max_new_tokens=30, eos=[3]))
    outputs = []
    while engine.has_work:
        step = engine.step()
        outputs += list(step.outputs if step else ())
    assert [token.token_id for output in outputs for token in output.tokens] == [1, 2, 3]
    assert outputs[-1].finish_reason is FinishReason.EOS_TOKEN
    assert engine.scheduler.blocks.num_free_blocks == engine.scheduler.blocks.num_blocks


def test_S7_an_encoder_decoder_looks_up_its_source() -> None:
    class Copies(FakeRunner):
        def _choose(self, s: ScheduledSequence, i: int, state: int) -> int:
            assert s.encoder is not None
            return s.encoder.token_ids[len(s.history) - s.num_prompt_tokens + i]

    runner = Copies(block_size=4)
    source = list(range(100, 120))
    engine = engine_of(runner, make_request(0, [0], encoder=source, max_new_tokens=20), num_speculative_tokens=5)
    assert run(engine) == {0: source}
    assert len(runner.batches) == 1 + 1 + 3, "the first, the second, then six at a time"


@pytest.mark.parametrize("num_tokens", [2, 3])
def test_S10_guesses_behind_forced_tokens(num_tokens: int) -> None:
    """Tokens that a grammar forced run as one chunk; guesses go behind them."""
    runner = Looping(block_size=4, num_tokens=num_tokens)
    engine = engine_of(runner, make_request(0, LOOP, max_new_tokens=40), num_speculative_tokens=6)
    assert run(engine) == {0: [1, 2, 3, 4] * 10}
    assert any(
        len(s.token_ids) - s.num_draft_tokens > 1 and s.num_draft_tokens
        for b in runner.batches[1:]
        for s in b.sequences
    )


def test_S7_a_step_that_fails_with_guesses_is_run_again_without_harm() -> None:
    failures = iter([False, False, True])

    class Failing(Looping):
        def execute(self, batch: ScheduledBatch) -> Any:
            if len(batch.sequences) == 2 and next(failures, False):
                raise MemoryError
            return super().execute(batch)

    runner = Failing(block_size=4)
    engine = engine_of(runner, *(make_request(i, LOOP, max_new_tokens=20) for i in range(2)))
    assert run(engine) == {i: [1, 2, 3, 4] * 5 for i in range(2)}


def test_S7_an_abort_in_a_step_with_guesses_frees_everything() -> None:
    class Aborting(Looping):
        def execute(self, batch: ScheduledBatch) -> Any:
            output = super().execute(batch)
            if any(s.num_draft_tokens for s in batch.sequences):
                engine.abort([0])
            return output

    engine = engine_of(Aborting(block_size=4), make_request(0, LOOP, max_new_tokens=50))
    run(engine)


def test_S7_the_draft_models_guesses_are_learned_from() -> None:
    """Right ones go on in full; wrong ones become fewer, then pause."""

    def guess(s: ScheduledSequence, i: int) -> int:
        right = expected_tokens(s.history, i + 1)[-1]
        return right if s.seq_id == 0 else right + 1

    runner = FakeRunner(block_size=4, guess=guess)
    requests = [make_request(i, [5 + i], max_new_tokens=40, sampling=SamplingParams(ignore_eos=True)) for i in range(2)]
    engine = engine_of(runner, *requests, has_draft_model=True, num_speculative_tokens=4)
    run(engine)
    slots: dict[int, list[int]] = {0: [], 1: []}
    for batch in runner.batches[1:]:
        for s in batch.sequences:
            slots[s.seq_id].append(s.num_draft_slots)
    assert set(slots[0]) <= {4, 3}
    assert slots[1][:8] == [4, 1, 0, 1, 0, 0, 1, 0]
    assert sum(slots[1]) < 12


def test_S7_pace() -> None:
    pace = Pace(8)
    assert pace.next_tokens() == 8
    pace.learn(8, 2)
    assert pace.next_tokens() == 3
    pace.learn(3, 3)
    assert pace.next_tokens() == 6
    pace.learn(2, 2)
    assert pace.next_tokens() == 6, "a short lookup that came true does not shorten the next"
    pace.learn(6, 6)
    assert pace.next_tokens() == 8
    pace.learn(0, 0)
    assert pace.next_tokens() == 8


def test_S7_pauses_grow_to_a_limit_and_end_with_a_guess_that_comes_true() -> None:
    pace = Pace(4)
    pace.learn(4, 0)
    pauses = []
    for _ in range(8):
        assert pace.next_tokens() == 1
        pace.learn(1, 0)
        pause = 0
        while pace.num_paused:
            assert pace.next_tokens() == 0
            pause += 1
        pauses.append(pause)
    assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    pace.learn(1, 1)
    pace.learn(1, 0)
    assert pace.num_paused == 1
