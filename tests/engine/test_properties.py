"""Random arrivals, aborts, exhaustion, encoder inputs, shared prefixes, failing steps, against a simulated memory."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from fakes import FakeRunner, expected_tokens, make_request

from segue.core.batch import ScheduledBatch, ScheduledSequence, StepOutput
from segue.core.output import FinishReason, RequestOutput
from segue.core.request import Request, SamplingParams
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.gathering import Gathering

VOCAB_SIZE = 11
CULPRIT = 97
"""A prompt with this token makes its step fail."""


@dataclass
class World:
    """One random engine and all that happened to its requests."""

    seed: int
    requests: dict[int, Request] = field(default_factory=dict)
    outputs: dict[int, list[RequestOutput]] = field(default_factory=dict)
    aborted: set[int] = field(default_factory=set)
    num_drafts: int = 0
    num_accepted: int = 0
    num_steps_ahead: int = 0

    def __post_init__(self) -> None:
        self.random = rng = random.Random(self.seed)
        block_size = rng.randint(1, 5)
        self.config = EngineConfig(
            num_blocks=-(-rng.randint(30, 120) // block_size),
            block_size=block_size,
            max_batch_size=rng.randint(1, 10),
            max_batch_prefill_tokens=rng.randint(1, 30),
            max_chunk_tokens=rng.choice([None, None, 1, 3, 7]),
            enable_prefix_caching=rng.random() < 0.85,
            num_speculative_tokens=rng.choice([0, 0, 1, 2, 5]),
            max_speculative_step_tokens=rng.choice([2, 6, 30]),
            has_draft_model=rng.random() < 0.5,
            prefill_chunking=rng.random() < 0.75,
            waiting_served_ratio=rng.choice([0.0, 0.3, 1.2, 5.0]),
            max_waiting_tokens=rng.choice([0, 1, 20]),
            run_ahead=rng.choice([None, Gathering(0.02), Gathering(0.01, 0.002, 0.02), Gathering(60.0)]),
        )
        self.max_sequences_without_failure = rng.choice([1, 2, 100, 100])
        self.spoil_rate = rng.choice([0.0, 0.0, 0.0, 0.01])
        num_tokens = rng.choice([1, 1, 1, 2, 3])
        self.runner = FakeRunner(
            block_size=block_size,
            vocab_size=VOCAB_SIZE,
            num_tokens=num_tokens,
            most_steps=lambda: self.random.randint(1, 9) if num_tokens == 1 else 1,
            guess=self.guess,
            fails=self.fails,
            spoils=lambda s: self.random.random() < self.spoil_rate,
        )
        self.engine = Engine(self.config, self)
        self.texts = [[rng.randrange(VOCAB_SIZE) for _ in range(24)] for _ in range(3)]
        self.sources = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 14))] for _ in range(3)]
        self.abort_rate = rng.choice([0.0, 0.02, 0.2])
        self.is_encoder_decoder = rng.random() < 0.5

    def fails(self, s: ScheduledSequence) -> bool:
        return CULPRIT in s.history[: s.num_prompt_tokens]

    def guess(self, s: ScheduledSequence, i: int) -> int:
        """A draft model that is right three times of four."""
        if self.random.random() < 0.25:
            return self.random.randrange(VOCAB_SIZE)
        encoder = s.encoder.token_ids if s.encoder else None
        return expected_tokens(s.history, i + 1, encoder=encoder, vocab_size=VOCAB_SIZE)[-1]

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """The runner's place, where aborts arrive between ``schedule`` and ``update``."""
        self.abort_some()
        if len(batch.sequences) > self.max_sequences_without_failure and self.random.random() < 0.3:
            raise MemoryError
        output = self.runner.execute(batch)
        self.abort_some()
        return output

    def new_request(self, request_id: int) -> Request:
        rng = self.random
        prompt = rng.choice(self.texts)[: rng.randint(1, 24)] + [rng.randrange(VOCAB_SIZE)] * rng.randint(0, 2)
        if rng.random() < 0.05:
            prompt.append(CULPRIT)
        return make_request(
            request_id,
            prompt,
            max_new_tokens=rng.choice([1, 2, rng.randint(1, 30), 200]) if rng.random() < 0.5 else rng.randint(1, 12),
            encoder=rng.choice(self.sources) if self.is_encoder_decoder else None,
            eos=rng.sample(range(VOCAB_SIZE), rng.randint(0, 2)),
            salt=rng.choice(["", "", "tenant"]),
            sampling=SamplingParams(prompt_logprobs=rng.random() < 0.15, ignore_eos=rng.random() < 0.3),
        )

    def arrive(self) -> None:
        request = self.new_request(len(self.requests))
        self.requests[request.request_id] = request
        self.outputs[request.request_id] = []
        self.engine.add(request)

    def abort_some(self) -> None:
        while self.requests and self.random.random() < self.abort_rate:
            request_id = self.random.randrange(len(self.requests) + 1)  # finished and unknown ones too
            self.engine.abort([request_id])
            if request_id in self.requests and not self.is_ended(request_id):
                self.aborted.add(request_id)

    def is_ended(self, request_id: int) -> bool:
        outputs = self.outputs[request_id]
        return bool(outputs) and (outputs[-1].finish_reason is not None or outputs[-1].error is not None)

    def step(self) -> None:
        step = self.engine.step()
        self.engine.scheduler.check_invariants()
        self.num_drafts += step.stats.num_draft_tokens if step else 0
        self.num_accepted += step.stats.num_accepted_tokens if step else 0
        self.num_steps_ahead += step.stats.num_steps - 1 if step else 0
        for output in step.outputs if step else ():
            assert not self.is_ended(output.request_id), "an output came after the last one"
            self.outputs[output.request_id].append(output)

    def run(self, num_requests: int) -> None:
        num_steps = 0
        while len(self.requests) < num_requests or self.engine.has_work:
            if len(self.requests) < num_requests:
                for _ in range(self.random.choice([0, 0, 0, 1, 1, 2, 8])):
                    self.arrive()
            self.abort_some()
            self.step()
            num_steps += 1
            assert num_steps < 10_000, "some request never ends"


def worlds(num_worlds: int, first_seed: int) -> Iterator[World]:
    for seed in range(first_seed, first_seed + num_worlds):
        yield World(seed)


def check_request(world: World, request: Request) -> None:
    outputs = world.outputs[request.request_id]
    tokens = [token.token_id for output in outputs for token in output.tokens]
    stop = request.stop
    expected = expected_tokens(
        request.prompt_token_ids, stop.max_new_tokens, encoder=request.encoder_token_ids, vocab_size=VOCAB_SIZE
    )
    num_expected = stop.max_new_tokens
    reason = FinishReason.LENGTH
    if not request.sampling.ignore_eos:
        eos_at = [i for i, token_id in enumerate(expected[:-1]) if token_id in stop.eos_token_ids]
        if eos_at:
            num_expected, reason = eos_at[0] + 1, FinishReason.EOS_TOKEN
    assert tokens == expected[: len(tokens)]
    if request.request_id in world.aborted:
        assert not world.is_ended(request.request_id) or len(tokens) == num_expected or outputs[-1].error
        return
    assert world.is_ended(request.request_id)
    num_slots = len(request.prompt_token_ids) + stop.max_new_tokens - 1
    size = world.config.block_size
    num_blocks = -(-num_slots // size) - (-len(request.encoder_token_ids or ()) // size)
    if num_blocks > world.config.num_blocks:
        assert "cache blocks" in (outputs[-1].error or "")
    elif CULPRIT in request.prompt_token_ids:
        assert outputs[-1].error == "the fake device failed"
    elif outputs[-1].error is not None:
        assert outputs[-1].error == "not finite"
        assert world.spoil_rate
    else:
        assert (len(tokens), outputs[-1].finish_reason) == (num_expected, reason)
        check_first_output(request, outputs[0])


def check_first_output(request: Request, output: RequestOutput) -> None:
    assert output.scheduled_time is not None
    if request.sampling.prompt_logprobs:
        assert output.prompt_logprobs == (None, *(-float(t) for t in request.prompt_token_ids[1:]))
        assert output.num_cached_tokens == 0
    else:
        assert output.prompt_logprobs is None
        assert output.num_cached_tokens < len(request.prompt_token_ids) + len(request.encoder_token_ids or (1,))


@pytest.mark.parametrize("first_seed", range(0, 200, 20))
def test_every_request_ends_once_with_its_own_tokens(first_seed: int) -> None:
    for world in worlds(20, first_seed):
        try:
            world.run(num_requests=40)
            for request in world.requests.values():
                check_request(world, request)
            assert world.engine.scheduler.blocks.num_free_blocks == world.config.num_blocks
        except AssertionError as error:
            raise AssertionError(f"world {world.seed}: {world.config}") from error


def test_the_worlds_are_not_tame() -> None:
    """What the property test claims to cover does happen in it."""
    preemptions = cached = errors = encoder_hits = guessed = accepted = ahead = 0
    for world in worlds(20, 0):
        world.run(num_requests=40)
        guessed += world.num_drafts
        accepted += world.num_accepted
        ahead += world.num_steps_ahead
        errors += sum(bool(out and out[-1].error) for out in world.outputs.values())
        cached += sum(out[0].num_cached_tokens for out in world.outputs.values() if out)
        batches = world.runner.batches
        encoder_hits += sum(
            s.encoder is not None and not s.encoder.run and s.num_computed_tokens < s.num_prompt_tokens
            for batch in batches
            for s in batch.sequences
        )
        starts = [s.seq_id for batch in batches for s in batch.sequences if s.num_computed_tokens == 0]
        preemptions += len(starts) - len(set(starts))
    assert min(preemptions, cached, errors, encoder_hits, accepted, guessed - accepted, ahead) > 20
