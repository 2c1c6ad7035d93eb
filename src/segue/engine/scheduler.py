"""Decides what runs in each step.

Sequences are served in the order of arrival. A step takes the running ones first, oldest first, one token each for
decodes and chunks of what the budget leaves for prefills; then it admits waiting ones, oldest first. When memory runs
out the youngest running sequence is preempted: it goes back to waiting, keeps its tokens and computes them again, as
far as the prefix cache has lost them. The oldest running sequence is never preempted for another, and ``add`` refuses
what the whole pool cannot hold, so the oldest always comes to its end, then the next: no two sequences can preempt
each other for ever.

A sequence whose grammar is not compiled yet is held aside, and takes its place by age among the waiting when it is.
"""

import itertools
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from msgspec.structs import replace

from segue.core.batch import ScheduledBatch, ScheduledSequence, Speculated, StepOutput
from segue.core.output import FinishReason, RequestOutput, TokenOutput
from segue.core.request import Request
from segue.engine.block_manager import BlockManager, Match
from segue.engine.config import EngineConfig
from segue.engine.grammars import Grammars
from segue.engine.prefill_policy import PrefillPolicy
from segue.engine.run_ahead import RunAhead, stop_token_ids
from segue.engine.sequence import EncoderBlocks, Sequence, SequenceStatus
from segue.engine.speculation import Speculator

__all__ = ["Scheduler", "StepCounts"]


@dataclass(slots=True)
class StepCounts:
    """What the step being scheduled does; the names are those of ``StepStats``."""

    num_scheduled_tokens: int = 0
    num_prefill_tokens: int = 0
    num_prefill_sequences: int = 0
    num_decode_sequences: int = 0
    num_new_sequences: int = 0
    num_cached_tokens: int = 0
    num_queried_tokens: int = 0
    num_preemptions: int = 0
    concat_reason: str | None = None
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_steps: int = 1


class Scheduler:
    """``schedule``, run the batch, then ``update`` it (or parts of it; ``fail`` or ``retract`` the others); repeat.

    ``add`` and ``abort`` may come at any moment in between.
    """

    def __init__(self, config: EngineConfig, grammars: Grammars | None = None) -> None:
        """Without ``grammars`` a request that has one is refused."""
        self.config = config
        self.grammars = grammars
        self.blocks = BlockManager(config.num_blocks, config.block_size, config.long_prompt_boundary)
        self.running: list[Sequence] = []
        """Oldest first."""
        self.waiting: OrderedDict[int, Sequence] = OrderedDict()
        """By ``seq_id``, oldest first."""
        self.held: dict[int, Sequence] = {}
        """By ``seq_id``: their grammars are being compiled."""
        self.counts = StepCounts()
        """Of the last step."""
        self.num_running_tokens = 0
        """Most tokens that the running sequences may come to hold."""
        self._live: dict[int, Sequence] = {}
        self._in_flight: dict[int, Sequence] = {}
        self._lost_blocks: set[int] = set()
        self._refused: list[RequestOutput] = []
        self._seq_ids = itertools.count()
        self._max_chunk = config.max_chunk_tokens or config.max_batch_prefill_tokens
        self._policy = _policy(config)
        self._speculator = Speculator(config, self.blocks)
        self._run_ahead = RunAhead(config.run_ahead, self.blocks)
        # Admission leaves a little memory to the sequences that already run, or they would soon preempt the new one.
        # Tokens computed twice with a full pool: 2 % (a spare of 1 %: 8 %, none: 21 %; tests/engine/bench_engine.py).
        self._num_spare_blocks = max(1, config.num_blocks // 32)

    def reconfigure(self, config: EngineConfig) -> None:
        """Other budgets, of the same pool; nothing may be live."""
        assert not self._live
        assert config.num_blocks == self.config.num_blocks
        self.config = config
        self._max_chunk = config.max_chunk_tokens or config.max_batch_prefill_tokens
        self._policy = _policy(config)
        self._speculator = Speculator(config, self.blocks)
        self._run_ahead = RunAhead(config.run_ahead, self.blocks)

    @property
    def has_work(self) -> bool:
        """Whether ``schedule`` would find something; what is held aside does not count until its grammar is ready."""
        return bool(self.running or self.waiting or self._refused) or any(map(_has_grammar, self.held.values()))

    def add(self, request: Request) -> None:
        """Put a request at the end of the queue; one that can never run gets its error from ``take_refused``.

        Raises ``ValueError`` when its id belongs to a live request.
        """
        if request.request_id in self._live:
            raise ValueError(f"request {request.request_id} is live already")
        reason = self._reason_to_refuse(request)
        if reason is not None:
            self._refused.append(RequestOutput(request_id=request.request_id, error=reason))
            return
        seq = Sequence.from_request(next(self._seq_ids), request, enable_caching=self.config.enable_prefix_caching)
        self._live[request.request_id] = seq
        if request.sampling.grammar is None:
            self.waiting[seq.seq_id] = seq
        else:
            assert self.grammars is not None
            seq.grammar = self.grammars.prepare(request.sampling.grammar)
            self.held[seq.seq_id] = seq

    def abort(self, request_ids: Iterable[int]) -> None:
        """Free all that these requests hold; results on their way are dropped. Unknown ids are ignored."""
        for request_id in request_ids:
            seq = self._live.get(request_id)
            if seq is not None:
                self._finish(seq)

    def take_refused(self) -> list[RequestOutput]:
        """The error outputs of requests that ``add`` refused since the last call."""
        refused, self._refused = self._refused, []
        return refused

    def schedule(self, news_file: int = -1) -> ScheduledBatch | None:
        """The next step's work, with its blocks reserved; None if there is nothing to do.

        ``news_file``: can be read when it is time for the next one, though more could be done of this.
        """
        assert not self._in_flight, "the last step was not completed"
        self.blocks.begin_step()
        self._run_ahead.begin_step()
        self._lost_blocks.clear()
        self.counts = StepCounts()
        self._release_held()
        decodes: list[ScheduledSequence] = []
        prefills: list[ScheduledSequence] = []
        if self._policy is None:
            budget = self._schedule_running(decodes, prefills)
            self._schedule_waiting(prefills, budget)
        else:
            self._schedule_apart(self._policy, decodes, prefills)
        if not decodes and not prefills:
            assert len(self.running) + len(self.waiting) == 0, "work is left but none of it fits"
            return None
        self._count(decodes, prefills)
        speculating = self._speculator.extend(decodes, prefills, self._in_flight)
        must_stop = prefills or speculating or self.waiting
        max_steps = 1 if must_stop else self._run_ahead.reserve(decodes, self._in_flight)
        return ScheduledBatch(
            sequences=decodes + speculating + prefills,
            num_decode_sequences=len(decodes),
            max_steps=max_steps,
            stop_token_ids=stop_token_ids(self._in_flight.values()) if max_steps > 1 else frozenset(),
            news_file=news_file,
        )

    def update(self, batch: ScheduledBatch, output: StepOutput) -> list[RequestOutput]:
        """Take in the result of ``batch``, which is the scheduled one or a part of it."""
        outputs: list[RequestOutput] = []
        num_more = output.num_steps - 1
        if batch.num_decode_sequences == len(batch.sequences):
            self._run_ahead.learn(output.num_steps, output.forward_s + output.sample_s)
            self.counts.num_steps = output.num_steps
            self.counts.num_scheduled_tokens += num_more * len(batch.sequences)
        for scheduled in batch.sequences:
            seq = self._in_flight.pop(scheduled.seq_id)
            reason = output.errors.get(seq.seq_id)
            if reason is not None:
                # What made its logits unusable may lie in the K/V of any of its blocks.
                self.blocks.discard(scheduled.block_table)
                self.blocks.discard(scheduled.encoder.block_table if scheduled.encoder else ())
            if seq.status is SequenceStatus.FINISHED:
                continue
            if reason is not None:
                self._finish(seq)
                outputs.append(RequestOutput(request_id=seq.request.request_id, error=reason))
                continue
            seq.num_computed_tokens += len(scheduled.token_ids) - scheduled.num_draft_tokens + num_more
            if seq.request.sampling.prompt_logprobs and not seq.has_output:
                seq.prompt_logprobs.extend(output.prompt_logprobs.get(seq.seq_id, ()))
            if scheduled.needs_token:
                if scheduled.num_draft_tokens or scheduled.num_draft_slots:
                    self._speculated(seq, output.speculated.get(seq.seq_id, Speculated(0, 0)))
                outputs.append(self._accept(seq, output.tokens.get(seq.seq_id, ()), output.num_steps))
        return outputs

    def fail(self, batch: ScheduledBatch, reason: str) -> list[RequestOutput]:
        """``batch``, the scheduled one or a part of it, raised: end its requests with ``reason``."""
        outputs = []
        for scheduled in batch.sequences:
            seq = self._withdraw(scheduled)
            if seq.status is not SequenceStatus.FINISHED:
                self._finish(seq)
                outputs.append(RequestOutput(request_id=seq.request.request_id, error=reason))
        return outputs

    def retract(self, batch: ScheduledBatch) -> ScheduledBatch | None:
        """What of ``batch`` can still run after other parts of its step failed.

        A sequence that shares blocks which a failed sequence was to fill in this step goes back to waiting.
        """
        if not self._lost_blocks:
            return batch
        kept = []
        num_decodes = 0
        for i, scheduled in enumerate(batch.sequences):
            table = scheduled.encoder.block_table if scheduled.encoder else ()
            if self._lost_blocks.isdisjoint(scheduled.block_table) and self._lost_blocks.isdisjoint(table):
                kept.append(scheduled)
                num_decodes += i < batch.num_decode_sequences
            else:
                seq = self._withdraw(scheduled)
                if seq.status is not SequenceStatus.FINISHED:
                    self._preempt(seq)
        return ScheduledBatch(sequences=kept, num_decode_sequences=num_decodes) if kept else None

    def _reason_to_refuse(self, request: Request) -> str | None:
        if not request.prompt_token_ids or request.encoder_token_ids == ():
            return "the input is empty"
        if request.sampling.grammar is not None and self.grammars is None:
            return "grammar is not supported"
        if request.stop.max_new_tokens < 1:
            return f"max_new_tokens must be at least 1, not {request.stop.max_new_tokens}"
        # The last token is never fed back, so it needs no slot.
        num_slots = len(request.prompt_token_ids) + request.stop.max_new_tokens - 1
        num_blocks = self.blocks.num_blocks_for(num_slots)
        num_blocks += self.blocks.num_blocks_for(len(request.encoder_token_ids or ()))
        if num_blocks > self.blocks.num_blocks:
            return f"the request needs {num_blocks} cache blocks, the server has {self.blocks.num_blocks}"
        return None

    def _release_held(self) -> None:
        """Let those wait whose grammars are ready, and refuse those whose grammars cannot be used."""
        for seq in [seq for seq in self.held.values() if _has_grammar(seq)]:
            assert seq.grammar is not None
            if seq.grammar.error is not None:
                self._finish(seq)
                reason = f"grammar is not valid: {seq.grammar.error}"
                self._refused.append(RequestOutput(request_id=seq.request.request_id, error=reason))
            else:
                del self.held[seq.seq_id]
                self._wait(seq)

    def _schedule_running(self, decodes: list[ScheduledSequence], prefills: list[ScheduledSequence]) -> int:
        """Returns the token budget left for new sequences.

        The budget has a token for each running sequence, because one is admitted only when each got its token and one
        was left. So the oldest always gets one, whatever it is at.
        """
        # Only the youngest leave while this goes on, so what is counted here stays true of those that it comes to.
        counts = [len(seq.token_ids) - seq.num_computed_tokens for seq in self.running]
        budget = self.config.max_batch_prefill_tokens - counts.count(1)
        grow = self.blocks.grow
        for seq, remaining in zip(self.running, counts, strict=False):
            num_tokens = remaining
            if remaining > 1:
                num_tokens = min(remaining, self._max_chunk, budget)
                if num_tokens == 0:
                    continue
            end = seq.num_computed_tokens + num_tokens
            if not grow(seq, end) and not self._make_room(seq, end):
                break
            if remaining > 1:
                budget -= num_tokens
            is_decode = remaining == 1 and seq.num_computed_tokens >= seq.num_prompt_tokens
            (decodes if is_decode else prefills).append(self._to_scheduled(seq, num_tokens, seq.encoder_blocks))
        return budget

    def _schedule_apart(
        self, policy: PrefillPolicy, decodes: list[ScheduledSequence], prefills: list[ScheduledSequence]
    ) -> None:
        """Without chunking: the step takes whole new prompts, or what runs goes on."""
        num_running = len(self.running)
        reason = policy.reason_to_admit(len(self.waiting), num_running)
        if reason is not None or not num_running:
            self._schedule_waiting(prefills, self.config.max_batch_prefill_tokens, whole=True)
        if prefills:
            policy.admitted()
            self.counts.concat_reason = reason if num_running else None
        else:
            self._schedule_running(decodes, prefills)
            policy.decoded()

    def _make_room(self, seq: Sequence, num_tokens: int) -> bool:
        """Preempt the youngest until ``seq`` has grown; False if that was ``seq`` itself."""
        while True:
            victim = self.running[-1]
            self.counts.num_preemptions += 1
            self._preempt(victim)
            if victim is seq:
                return False
            if self.blocks.grow(seq, num_tokens):
                return True

    def _schedule_waiting(self, prefills: list[ScheduledSequence], budget: int, *, whole: bool = False) -> None:
        """Admit the oldest that fit. ``whole``: of several, each with all its tokens; one that no step holds is cut."""
        most_running = min(self.config.max_batch_size, self.config.max_batch_prefill_tokens)
        while self.waiting and budget > 0 and len(self.running) < most_running:
            seq = next(iter(self.waiting.values()))
            match = self.blocks.match(seq)
            if whole and prefills and match.num_missing_tokens > budget:
                return
            if match.num_missing_encoder_tokens > budget and prefills:
                return
            num_spare_blocks = self._num_spare_blocks if self.running else 0
            if match.num_missing_blocks + num_spare_blocks > self.blocks.num_free_blocks:
                return
            budget -= self._admit(seq, match, prefills, budget)

    def _admit(self, seq: Sequence, match: Match, prefills: list[ScheduledSequence], budget: int) -> int:
        """Move ``seq`` from waiting to running and schedule its first tokens. Returns what that takes of the budget."""
        self.blocks.admit(seq, match)
        self._start_running(seq)
        encoder = seq.encoder_blocks
        num_encoder_tokens = match.num_missing_encoder_tokens
        num_tokens = min(
            len(seq.token_ids) - seq.num_computed_tokens, self._max_chunk, max(1, budget - num_encoder_tokens)
        )
        has_grown = self.blocks.grow(seq, seq.num_computed_tokens + num_tokens)
        assert has_grown, "the match counted too few blocks"
        num_cached_tokens = seq.num_computed_tokens + seq.num_encoder_tokens - num_encoder_tokens
        if seq.scheduled_time is None:
            seq.scheduled_time = time.monotonic()
            seq.num_cached_tokens = num_cached_tokens
        self.counts.num_new_sequences += 1
        self.counts.num_cached_tokens += num_cached_tokens
        if seq.uses_cache:
            self.counts.num_queried_tokens += len(seq.token_ids) + seq.num_encoder_tokens
        prefills.append(self._to_scheduled(seq, num_tokens, encoder, run_encoder=num_encoder_tokens > 0))
        return num_tokens + num_encoder_tokens

    def _to_scheduled(
        self, seq: Sequence, num_tokens: int, encoder: EncoderBlocks | None, *, run_encoder: bool = False
    ) -> ScheduledSequence:
        self._in_flight[seq.seq_id] = seq
        token_ids, num_computed_tokens = seq.token_ids, seq.num_computed_tokens
        end = num_computed_tokens + num_tokens
        view = None if encoder is None else encoder.view
        return ScheduledSequence(
            seq_id=seq.seq_id,
            token_ids=token_ids[num_computed_tokens:end],
            num_computed_tokens=num_computed_tokens,
            block_table=seq.block_table,
            sampling=seq.request.sampling,
            needs_token=end == len(token_ids),
            history=token_ids,
            num_prompt_tokens=seq.num_prompt_tokens,
            seed=seq.seed,
            encoder=replace(view, run=True) if view is not None and run_encoder else view,
        )

    def _count(self, decodes: list[ScheduledSequence], prefills: list[ScheduledSequence]) -> None:
        counts = self.counts
        counts.num_decode_sequences = len(decodes)
        counts.num_prefill_sequences = len(prefills)
        for scheduled in prefills:
            counts.num_prefill_tokens += len(scheduled.token_ids)
            if scheduled.encoder is not None and scheduled.encoder.run:
                counts.num_prefill_tokens += len(scheduled.encoder.token_ids)
        counts.num_scheduled_tokens = len(decodes) + counts.num_prefill_tokens

    def _speculated(self, seq: Sequence, speculated: Speculated) -> None:
        """Before its tokens are accepted: the K/V of guesses that came true count as computed."""
        self._speculator.learn(seq, speculated)
        self.counts.num_scheduled_tokens += speculated.num_drafts
        self.counts.num_draft_tokens += speculated.num_drafts
        self.counts.num_accepted_tokens += speculated.num_accepted
        seq.num_computed_tokens += speculated.num_accepted

    def _accept(self, seq: Sequence, tokens: tuple[TokenOutput, ...], num_steps: int) -> RequestOutput:
        """Append what was sampled, up to the first token that ends the sequence."""
        request_id = seq.request.request_id
        if not tokens:
            self._finish(seq)
            return RequestOutput(request_id=request_id, error="the model gave no token")
        stop = seq.request.stop
        num_left = stop.max_new_tokens - seq.num_output_tokens
        finish_reason = None
        for i, token in enumerate(tokens, 1):
            seq.token_ids.append(token.token_id)
            if i == num_left:
                finish_reason = FinishReason.LENGTH
            elif token.token_id in stop.eos_token_ids and not seq.request.sampling.ignore_eos:
                finish_reason = FinishReason.EOS_TOKEN
            if finish_reason is not None:
                tokens = tokens[:i]
                break
        if seq.drafting is not None or self._run_ahead.has_reserved:
            seq.num_computed_tokens = min(seq.num_computed_tokens, len(seq.token_ids))
            self.blocks.settle(seq)
        if finish_reason is not None:
            self._finish(seq)
        if seq.has_output:
            return RequestOutput(
                request_id=request_id, tokens=tokens, finish_reason=finish_reason, num_steps=min(num_steps, len(tokens))
            )
        return self._first_output(seq, tokens, finish_reason)

    def _first_output(
        self, seq: Sequence, tokens: tuple[TokenOutput, ...], finish_reason: FinishReason | None
    ) -> RequestOutput:
        seq.has_output = True
        prompt_logprobs = (None, *seq.prompt_logprobs) if seq.request.sampling.prompt_logprobs else None
        seq.prompt_logprobs = []
        return RequestOutput(
            request_id=seq.request.request_id,
            tokens=tokens,
            finish_reason=finish_reason,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=seq.num_cached_tokens,
            scheduled_time=seq.scheduled_time,
        )

    def _withdraw(self, scheduled: ScheduledSequence) -> Sequence:
        """The sequence did not run in this step: what it was to compute is lost, for it and for those that share it."""
        self._lost_blocks.update(self.blocks.revoke(scheduled.seq_id))
        return self._in_flight.pop(scheduled.seq_id)

    def _start_running(self, seq: Sequence) -> None:
        del self.waiting[seq.seq_id]
        insort(self.running, seq, key=_age)
        seq.status = SequenceStatus.RUNNING
        self.num_running_tokens += seq.max_tokens

    def _stop_running(self, seq: Sequence) -> None:
        self.running.remove(seq)
        self.num_running_tokens -= seq.max_tokens

    def _preempt(self, seq: Sequence) -> None:
        self._stop_running(seq)
        self.blocks.free(seq)
        seq.status = SequenceStatus.WAITING
        seq.prompt_logprobs = []
        self._wait(seq)

    def _wait(self, seq: Sequence) -> None:
        """Put it among the waiting, by its age."""
        # A preempted sequence is older than all that wait, except those that a failed step or a grammar held back.
        oldest = next(iter(self.waiting), seq.seq_id)
        self.waiting[seq.seq_id] = seq
        if oldest >= seq.seq_id:
            self.waiting.move_to_end(seq.seq_id, last=False)
        else:
            self.waiting = OrderedDict(sorted(self.waiting.items()))

    def _finish(self, seq: Sequence) -> None:
        if seq.status is SequenceStatus.RUNNING:
            self._stop_running(seq)
        elif self.held.pop(seq.seq_id, None) is None:
            del self.waiting[seq.seq_id]
        self.blocks.free(seq)
        seq.status = SequenceStatus.FINISHED
        del self._live[seq.request.request_id]

    def check_invariants(self) -> None:
        """Between steps: orders, counts and ownership. Raises ``AssertionError``."""
        assert [seq.seq_id for seq in self.running] == sorted(seq.seq_id for seq in self.running)
        assert list(self.waiting) == sorted(self.waiting)
        assert len(self.running) <= min(self.config.max_batch_size, self.config.max_batch_prefill_tokens)
        live = {seq.request.request_id: seq for seq in (*self.running, *self.waiting.values(), *self.held.values())}
        assert live == self._live
        assert len(live) == len(self.running) + len(self.waiting) + len(self.held)
        assert all(seq.grammar is None or _has_grammar(seq) for seq in (*self.running, *self.waiting.values()))
        for seq in (*self.waiting.values(), *self.held.values()):
            assert seq.status is SequenceStatus.WAITING
            assert (seq.block_table, seq.encoder_blocks, seq.num_computed_tokens) == ([], None, 0)
        for seq in self.running:
            assert seq.status is SequenceStatus.RUNNING
            assert seq.num_computed_tokens < len(seq.token_ids)
            assert len(seq.block_table) == self.blocks.num_blocks_for(seq.num_computed_tokens)
        assert self.num_running_tokens == sum(seq.max_tokens for seq in self.running)
        self.blocks.check_invariants(self.running)


def _has_grammar(seq: Sequence) -> bool:
    return seq.grammar is not None and seq.grammar.is_ready


def _policy(config: EngineConfig) -> PrefillPolicy | None:
    return None if config.prefill_chunking else PrefillPolicy(config.waiting_served_ratio, config.max_waiting_tokens)


def _age(seq: Sequence) -> int:
    return seq.seq_id
