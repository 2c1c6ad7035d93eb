"""Runs one step: ``execute(ScheduledBatch) → StepOutput``. Tensors live and die in here.

The runner keeps nothing of a sequence between steps but its K/V in the pool, and what a grammar can replay, so that
preempting or finishing one needs no word to it. It knows no request, no scheduler and no text.
"""

import itertools
import time
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from segue.core.batch import ScheduledBatch, ScheduledSequence, Speculated, StepOutput
from segue.core.errors import GenerationError
from segue.core.output import TokenOutput
from segue.kernels.scaled_cache import ScaledCache
from segue.layers.attention import ForwardContext
from segue.models.base import Model, Seq2SeqModel
from segue.runner.drafting import Drafter, Sampled
from segue.runner.input_batch import KVCaches, encoder_batch, input_batch, wanted_rows
from segue.runner.native_model import NativeModel, native_model
from segue.runner.plain_step import PlainStep
from segue.runner.verification import sampling_rows, verify, without_guesses
from segue.sampling.grammar_compiler import GrammarCompiler
from segue.sampling.logprobs import prompt_logprobs
from segue.sampling.sampler import Sampler

__all__ = ["ModelRunner"]

LOGPROB_ROWS = 256
"""Prompt logprobs are computed for so many positions at a time: [256, vocab] logits, not [prompt, vocab]."""


class ModelRunner:
    """A model, its KV pool and the sampler on one device."""

    def __init__(
        self,
        model: Model,
        kv_caches: KVCaches,
        block_size: int,
        device: torch.device,
        sampler: Sampler,
        grammars: GrammarCompiler | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """``grammars``: the compiler that the engine is to prepare grammars with; None: requests cannot have any.

        ``drafter`` guesses where the engine leaves slots for guesses.
        """
        self.model = native_model(model, kv_caches)
        self.kv_caches, self.block_size, self.device = kv_caches, block_size, device
        self.sampler, self.grammars, self.drafter = sampler, grammars, drafter
        self.plain_step: PlainStep | None = None
        """Runs the steps that it can; a drafter must see hidden states, and it knows nothing of long prompts."""
        if drafter is None and isinstance(self.model, NativeModel) and self.model.long_prompt_boundary is None:
            self.plain_step = PlainStep(self.model, block_size)

    @property
    def can_run_ahead(self) -> bool:
        """Whether ``execute`` may take more than one step of a batch."""
        return self.plain_step is not None

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        started = time.perf_counter()
        self._encode(batch.sequences)
        done = None if self.plain_step is None else self.plain_step.run(batch)
        if done is None:
            return self._execute(batch, started)
        tokens, choosing_s = done
        return StepOutput(
            tokens={s.seq_id: own for s, own in zip(batch.sequences, tokens, strict=True)},
            num_steps=len(tokens[0]),
            forward_s=time.perf_counter() - started - choosing_s,
            sample_s=choosing_s,
        )

    @torch.inference_mode()
    def _execute(self, batch: ScheduledBatch, started: float) -> StepOutput:
        if self.drafter is not None:
            batch = self.drafter.extend(batch)
        inputs = input_batch(batch, self.kv_caches, self.block_size, self.device, self.model.long_prompt_boundary)
        hidden = wanted_rows(self.model(inputs.input_ids, inputs.positions, inputs.ctx), inputs.ctx)
        sampled = [(i, s) for i, s in enumerate(batch.sequences) if s.needs_token]
        rows = self._rows(hidden, inputs.ctx, sampled)
        logits = self.model.compute_logits(rows) if sampled else None
        scored, errors = self._score_prompts(batch.sequences, hidden, inputs.ctx)
        forwarded = time.perf_counter()
        tokens: dict[int, tuple[TokenOutput, ...]] = {}
        speculated: dict[int, Speculated] = {}
        if logits is not None:
            sequences = [s for _, s in sampled]
            tokens, speculated, sampling_errors = self._sample(logits, sequences)
            errors.update(sampling_errors)
            if self.drafter is not None:
                self.drafter.learn(Sampled(sequences, rows, tokens, speculated), self.model.compute_logits)
        output = StepOutput(
            tokens=tokens,
            speculated=speculated,
            errors=errors,
            prompt_logprobs=scored,
            forward_s=forwarded - started,
            sample_s=time.perf_counter() - forwarded,
        )
        failed = [s for s in batch.sequences if s.num_draft_tokens and s.seq_id in errors]
        return self._without_guesses(failed, output) if failed else output

    def _without_guesses(self, failed: Seq[ScheduledSequence], output: StepOutput) -> StepOutput:
        """``output``, with the failed sequences run again: NaN of a guess reaches all places of its sequence, because
        masked values are multiplied by zero."""
        batch = ScheduledBatch(sequences=list(map(without_guesses, failed)), num_decode_sequences=0)
        again = self.execute(batch)
        is_again = {s.seq_id for s in failed}
        return StepOutput(
            tokens=output.tokens | again.tokens,
            speculated=output.speculated | {s.seq_id: Speculated(s.num_draft_tokens, 0) for s in failed},
            errors={i: reason for i, reason in output.errors.items() if i not in is_again} | again.errors,
            prompt_logprobs=output.prompt_logprobs | again.prompt_logprobs,
            forward_s=output.forward_s + again.forward_s,
            sample_s=output.sample_s + again.sample_s,
        )

    def _encode(self, sequences: Seq[ScheduledSequence]) -> None:
        encoding = [s for s in sequences if s.encoder is not None and s.encoder.run]
        if not encoding:
            return
        with torch.inference_mode():
            assert isinstance(self.model, Seq2SeqModel | NativeModel)
            inputs = encoder_batch(encoding, self.kv_caches, self.block_size, self.device)
            self.model.encode(inputs.input_ids, inputs.positions, inputs.ctx)

    def _rows(self, hidden: Tensor, ctx: ForwardContext, sampled: Seq[tuple[int, ScheduledSequence]]) -> Tensor:
        """[num_rows, hidden] after the last certain token of each sequence and after its guesses."""
        if len(sampled) == hidden.shape[0]:
            return hidden
        assert ctx.wanted is not None
        ends = list(itertools.accumulate(ctx.wanted))
        rows = [row for i, s in sampled for row in range(ends[i] - 1 - s.num_draft_tokens, ends[i])]
        if len(rows) != hidden.shape[0]:
            hidden = hidden[torch.tensor(rows, dtype=torch.int64, device=self.device)]
        return hidden

    def _sample(
        self, logits: Tensor, sequences: Seq[ScheduledSequence]
    ) -> tuple[dict[int, tuple[TokenOutput, ...]], dict[int, Speculated], dict[int, str]]:
        """Tokens, what became of guesses, and errors, by ``seq_id``."""
        rows = [sampling_rows(s) for s in sequences]
        results = iter(self.sampler.sample(logits, [row for each in rows for row in each]))
        tokens: dict[int, tuple[TokenOutput, ...]] = {}
        speculated: dict[int, Speculated] = {}
        errors: dict[int, str] = {}
        for s, places in zip(sequences, rows, strict=True):
            sampled = list(itertools.islice(results, len(places)))
            verdict = verify(
                s.token_ids[len(s.token_ids) - s.num_draft_tokens :], places, sampled, self.sampler.forced_after
            )
            if any(isinstance(result, GenerationError) for result in sampled):
                self._wipe(s)
            if verdict.tokens:
                tokens[s.seq_id] = verdict.tokens
                if s.num_draft_tokens:
                    speculated[s.seq_id] = Speculated(s.num_draft_tokens, verdict.num_accepted)
            else:
                assert verdict.failure is not None
                row, error = verdict.failure
                errors[s.seq_id] = self.sampler.grammar_error(row) or error.reason
        return tokens, speculated, errors

    def _wipe(self, sequence: ScheduledSequence) -> None:
        """Replace what is not finite in a failed sequence's blocks: padding is read before it is masked, and NaN would
        spread from there to the blocks' next owner. Finite numbers stay, since blocks may be shared."""
        tables = [sequence.block_table] + ([sequence.encoder.block_table] if sequence.encoder else [])
        blocks = torch.tensor([block for table in tables for block in table], device=self.device)
        for caches in self.kv_caches:
            for cache in caches:
                if isinstance(cache, ScaledCache):
                    cache.wipe(blocks)
                else:
                    cache[blocks] = cache[blocks].nan_to_num(0.0, 0.0, 0.0)

    def _score_prompts(
        self, sequences: Seq[ScheduledSequence], hidden: Tensor, ctx: ForwardContext
    ) -> tuple[dict[int, Seq[float]], dict[int, str]]:
        """Prompt logprobs, and errors, of the sequences that asked for them and still are in their prompt."""
        assert ctx.wanted is not None
        starts = [0, *itertools.accumulate(ctx.wanted)]
        scored: dict[int, Seq[float]] = {}
        errors: dict[int, str] = {}
        for i, s in enumerate(sequences):
            if s.sampling.prompt_logprobs and s.num_computed_tokens < s.num_prompt_tokens:
                try:
                    scored[s.seq_id] = self._prompt_logprobs(hidden[starts[i] :], s)
                except GenerationError as error:
                    errors[s.seq_id] = error.reason
                    self._wipe(s)
        return scored, errors

    def _prompt_logprobs(self, hidden: Tensor, sequence: ScheduledSequence) -> Seq[float]:
        """``hidden``: from this sequence's first row on. One logprob a prompt token that this chunk leads to."""
        first = sequence.num_computed_tokens + 1
        last = min(first + len(sequence.token_ids), sequence.num_prompt_tokens)
        targets = list(sequence.history[first:last])
        scores: list[float] = []
        for start in range(0, len(targets), LOGPROB_ROWS):
            part = targets[start : start + LOGPROB_ROWS]
            scores.extend(prompt_logprobs(self.model.compute_logits(hidden[start : start + len(part)]), part))
        return scores
