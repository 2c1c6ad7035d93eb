"""Stand-ins at the project's own seams: a runner without a model."""

import os
import time
import zlib
from collections.abc import Callable
from collections.abc import Sequence as Seq

from msgspec.structs import replace

from segue.core.batch import EncoderInput, ScheduledBatch, ScheduledSequence, Speculated, StepOutput
from segue.core.output import EngineInfo, TokenOutput
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.engine_process import run_engine_loop

__all__ = ["FakeRunner", "MemoryMismatch", "engine_info", "expected_tokens", "make_request", "serve_fake_engine"]

SPOILED = -2
NextToken = Callable[[ScheduledSequence], int]


class FakeRunner:
    """A runner whose "K/V" of a position is a checksum of all tokens up to it (and of the encoder input).

    Like a model's, it is written to the slot that the block table names; everything a sequence attends to is then read
    back from its slots and must be the checksum of the sequence's own tokens. So a wrong block, a block reused too
    early, a prefix hit on blocks that nobody computed, or a position computed twice or never raises ``MemoryMismatch``,
    and the tokens it gives depend on the right memory.

    Without ``next_token`` the tokens are those of ``expected_tokens``. ``fails`` makes every step that contains such a
    sequence raise. Where ``spoils`` says so, what the sequence writes in this step is spoiled, as by a number that is
    not finite: it, and whoever reads that, ends in ``StepOutput.errors``. ``num_tokens`` of each sequence come at a
    time, as forced ones of a grammar do. Guesses are written to their slots and verified; ``guess`` stands for a draft
    model: it is asked for the i-th token after the history.
    """

    def __init__(
        self,
        *,
        block_size: int = 16,
        vocab_size: int = 1000,
        next_token: NextToken | Seq[int] | None = None,
        fails: Callable[[ScheduledSequence], bool] | None = None,
        spoils: Callable[[ScheduledSequence], bool] | None = None,
        num_tokens: int = 1,
        most_steps: Callable[[], int] = lambda: 1,
        guess: Callable[[ScheduledSequence, int], int] | None = None,
    ) -> None:
        """``next_token``: a function, or the output tokens of every sequence, of which the last is repeated."""
        self.block_size = block_size
        self.vocab_size = vocab_size
        self.num_tokens = num_tokens
        self.most_steps = most_steps
        self._guess = guess
        self.batches: list[ScheduledBatch] = []
        """Every batch whose execution began, the failed ones too."""
        self._fails = fails
        self._spoils = spoils
        self._script = None if next_token is None or callable(next_token) else list(next_token)
        self._next_token = next_token if callable(next_token) else None
        self._memory: dict[int, int] = {}
        self._states: dict[int, list[int]] = {}

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        """Of a batch that may take several steps, as many as ``most_steps`` allows."""
        output = self._execute(batch)
        num_steps = min(batch.max_steps, self.most_steps())
        tokens = output.tokens
        for number in range(1, num_steps):
            last = [each[-1].token_id for each in tokens.values()]
            if output.errors or not batch.stop_token_ids.isdisjoint(last):
                break
            going_on = [_gone_on(s, tokens[s.seq_id][-1].token_id) for s in batch.sequences]
            batch = replace(batch, sequences=going_on, max_steps=batch.max_steps - 1)
            more = self._execute(batch)
            if more.errors:  # found again by the next step, which begins with this one
                break
            tokens = {seq_id: each + more.tokens[seq_id] for seq_id, each in tokens.items()}
            output = replace(output, tokens=tokens, num_steps=number + 1)
        return output

    def _execute(self, batch: ScheduledBatch) -> StepOutput:
        self.batches.append(batch)
        self._check_shape(batch)
        batch = self._with_guesses(batch)
        if self._fails is not None and any(map(self._fails, batch.sequences)):
            self._write(batch, garbage=True)
            raise RuntimeError("the fake device failed")
        self._write(batch)
        for s in batch.sequences:
            if self._spoils is not None and self._spoils(s):
                self._spoil(s)
        spoiled = {s.seq_id for s in batch.sequences if not self._reads_well(s)}
        tokens = {s.seq_id: self._sample(s) for s in batch.sequences if s.needs_token and s.seq_id not in spoiled}
        return StepOutput(
            tokens=tokens,
            speculated={
                s.seq_id: Speculated(s.num_draft_tokens, _num_equal(_drafts(s), tokens[s.seq_id][:-1]))
                for s in batch.sequences
                if s.num_draft_tokens and s.seq_id in tokens
            },
            errors={s.seq_id: "not finite" for s in batch.sequences if s.needs_token and s.seq_id in spoiled},
            prompt_logprobs={s.seq_id: _prompt_logprobs(s) for s in batch.sequences if s.sampling.prompt_logprobs},
            forward_s=0.002,
            sample_s=0.001,
        )

    def _check_shape(self, batch: ScheduledBatch) -> None:
        sequences = batch.sequences
        assert sequences
        assert all(len(s.token_ids) == 1 for s in sequences[: batch.num_decode_sequences])
        assert len({s.seq_id for s in sequences}) == len(sequences)
        for s in sequences:
            end = s.num_computed_tokens + len(s.token_ids)
            assert s.token_ids
            certain = len(s.token_ids) - s.num_draft_tokens
            assert certain > 0
            assert list(s.token_ids[:certain]) == list(s.history[s.num_computed_tokens : end])
            assert s.needs_token == (end - s.num_draft_tokens == len(s.history))
            assert not s.num_draft_slots or (s.needs_token and not s.num_draft_tokens)
            assert len(s.block_table) * self.block_size >= end + s.num_draft_slots + batch.max_steps - 1
        if batch.max_steps > 1:
            assert batch.num_decode_sequences == len(sequences)
            assert all(s.needs_token and s.sampling.is_plain and not s.num_draft_tokens for s in sequences)

    def _with_guesses(self, batch: ScheduledBatch) -> ScheduledBatch:
        if not any(s.num_draft_slots for s in batch.sequences):
            return batch
        assert self._guess is not None, "nobody guesses"
        return replace(batch, sequences=[self._with_guess(s) for s in batch.sequences])

    def _with_guess(self, s: ScheduledSequence) -> ScheduledSequence:
        assert self._guess is not None
        guesses = [self._guess(s, i) for i in range(s.num_draft_slots)]
        return replace(s, token_ids=[*s.token_ids, *guesses], num_draft_tokens=len(guesses))

    def _write(self, batch: ScheduledBatch, *, garbage: bool = False) -> None:
        written: dict[int, int] = {}
        for s in batch.sequences:
            if s.encoder is not None and s.encoder.run:
                for position, state in enumerate(_encoder_states(s.encoder)):
                    self._write_slot(written, s.encoder.block_table, position, state)
        for s in batch.sequences:
            states = self._states_of(s)
            for position in range(s.num_computed_tokens, s.num_computed_tokens + len(s.token_ids)):
                self._write_slot(written, s.block_table, position, states[position])
        self._memory.update(dict.fromkeys(written, -1) if garbage else written)

    def _write_slot(self, written: dict[int, int], block_table: Seq[int], position: int, state: int) -> None:
        slot = self._slot(block_table, position)
        if slot in written:
            raise MemoryMismatch(f"slot {slot} is written twice in one step")
        written[slot] = state

    def _spoil(self, s: ScheduledSequence) -> None:
        for position in range(s.num_computed_tokens, s.num_computed_tokens + len(s.token_ids)):
            self._memory[self._slot(s.block_table, position)] = SPOILED
        if s.encoder is not None and s.encoder.run:
            for position in range(len(s.encoder.token_ids)):
                self._memory[self._slot(s.encoder.block_table, position)] = SPOILED

    def _reads_well(self, s: ScheduledSequence) -> bool:
        """False if something it attends to is spoiled, and then what it writes is spoiled too."""
        end = s.num_computed_tokens + len(s.token_ids)
        reads = [self._reads_slot(s.block_table, i, state) for i, state in enumerate(self._states_of(s)[:end])]
        if s.encoder is not None:
            table = s.encoder.block_table
            reads += [self._reads_slot(table, i, state) for i, state in enumerate(_encoder_states(s.encoder))]
        if not all(reads):
            self._spoil(s)
        return all(reads)

    def _reads_slot(self, block_table: Seq[int], position: int, state: int) -> bool:
        slot = self._slot(block_table, position)
        content = self._memory.get(slot)
        if content not in (state, SPOILED):
            raise MemoryMismatch(f"slot {slot} does not hold position {position} of this sequence")
        return content == state

    def _slot(self, block_table: Seq[int], position: int) -> int:
        return block_table[position // self.block_size] * self.block_size + position % self.block_size

    def _states_of(self, s: ScheduledSequence) -> list[int]:
        states = self._states.setdefault(s.seq_id, [])
        if not states:
            states.append(_root_state(s.encoder.token_ids if s.encoder else None))
        for position in range(len(states) - 1, len(s.history)):
            states.append(_next_state(states[-1], s.history[position]))
        guessed = [states[-1]]
        for token_id in _drafts(s):
            guessed.append(_next_state(guessed[-1], token_id))
        return states[1:] + guessed[1:]

    def _sample(self, s: ScheduledSequence) -> tuple[TokenOutput, ...]:
        outputs: list[TokenOutput] = []
        state = self._states_of(s)[len(s.history) - 1]
        drafts = _drafts(s)
        while len(outputs) <= len(drafts) and _num_equal(drafts, outputs) == len(outputs):
            for _ in range(self.num_tokens):
                token_id = self._choose(s, len(outputs), state)
                state = _next_state(state, token_id)
                top = tuple(((token_id + k) % self.vocab_size, -0.5 - k) for k in range(s.sampling.top_n_tokens))
                outputs.append(TokenOutput(token_id, -0.5, top))
        return tuple(outputs)

    def _choose(self, s: ScheduledSequence, i: int, state: int) -> int:
        """The i-th token after the history."""
        if self._next_token is not None:
            return self._next_token(s)
        if self._script is not None:
            position = len(s.history) - s.num_prompt_tokens + i
            return self._script[min(position, len(self._script) - 1)]
        return _token_of(state, self.vocab_size)


def _gone_on(s: ScheduledSequence, token_id: int) -> ScheduledSequence:
    """The step after."""
    return replace(
        s, token_ids=[token_id], num_computed_tokens=s.num_computed_tokens + 1, history=[*s.history, token_id]
    )


def _drafts(s: ScheduledSequence) -> list[int]:
    return list(s.token_ids[len(s.token_ids) - s.num_draft_tokens :])


def _num_equal(drafts: Seq[int], tokens: Seq[TokenOutput]) -> int:
    pairs = zip(drafts, tokens, strict=False)
    return next((i for i, (draft, token) in enumerate(pairs) if draft != token.token_id), min(len(drafts), len(tokens)))


class MemoryMismatch(AssertionError):
    """A sequence would have attended to something that is not its own context."""


def expected_tokens(
    prompt: Seq[int], num_tokens: int, *, encoder: Seq[int] | None = None, vocab_size: int = 1000
) -> list[int]:
    """What ``FakeRunner`` generates, however the work is scheduled."""
    state = _root_state(encoder)
    for token_id in prompt:
        state = _next_state(state, token_id)
    tokens = []
    for _ in range(num_tokens):
        tokens.append(_token_of(state, vocab_size))
        state = _next_state(state, tokens[-1])
    return tokens


def make_request(
    request_id: int,
    prompt: Seq[int] = (1, 2, 3),
    *,
    max_new_tokens: int = 4,
    encoder: Seq[int] | None = None,
    eos: Seq[int] = (),
    salt: str = "",
    sampling: SamplingParams | None = None,
) -> Request:
    return Request(
        request_id=request_id,
        prompt_token_ids=tuple(prompt),
        encoder_token_ids=None if encoder is None else tuple(encoder),
        sampling=sampling or SamplingParams(),
        stop=StopCriteria(max_new_tokens=max_new_tokens, eos_token_ids=frozenset(eos)),
        cache_salt=salt,
    )


def engine_info(config: EngineConfig, *, is_encoder_decoder: bool = False, vocab_size: int = 1000) -> EngineInfo:
    """Facts of a model that does not exist, for engines with a ``FakeRunner``."""
    num_slots = config.num_blocks * config.block_size
    return EngineInfo(
        model_type="fake",
        is_encoder_decoder=is_encoder_decoder,
        dtype="float32",
        device="cpu",
        vocab_size=vocab_size,
        max_input_tokens=num_slots - 1,
        max_total_tokens=num_slots,
        max_batch_prefill_tokens=config.max_batch_prefill_tokens,
        max_batch_total_tokens=num_slots,
        block_size=config.block_size,
        num_blocks=config.num_blocks,
    )


def serve_fake_engine(endpoint: str, *, num_blocks: int = 64, block_size: int = 4, step_s: float = 0.0) -> None:
    """The body of an engine process whose steps take ``step_s``; it exits with code 3 at a token id 13 in a prompt."""

    def next_token(s: ScheduledSequence) -> int:
        if 13 in s.history[: s.num_prompt_tokens]:
            os._exit(3)
        time.sleep(step_s)
        return s.history[-1] + 1

    config = EngineConfig(num_blocks=num_blocks, block_size=block_size)
    engine = Engine(config, FakeRunner(block_size=block_size, next_token=next_token))
    run_engine_loop(engine, engine_info(config), endpoint)


def _prompt_logprobs(s: ScheduledSequence) -> list[float]:
    first = s.num_computed_tokens + 1
    end = min(first + len(s.token_ids), s.num_prompt_tokens)
    return [-float(s.history[position]) for position in range(first, end)]


def _encoder_states(encoder: EncoderInput) -> list[int]:
    root = _root_state(encoder.token_ids)
    return [_next_state(root, position) for position in range(len(encoder.token_ids))]


def _root_state(encoder: Seq[int] | None) -> int:
    return zlib.crc32(repr(None if encoder is None else list(encoder)).encode())


def _next_state(state: int, token_id: int) -> int:
    return zlib.crc32(token_id.to_bytes(8, "little"), state)


def _token_of(state: int, vocab_size: int) -> int:
    return state % vocab_size
