"""A small model that guesses for the large one (Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", 2023): greedily, a few tokens at a time.

Its K/V lie in blocks of the same numbers as the large model's, in a pool of its own, so that one block table serves
both and a block found in the prefix cache is found for both. The draft model runs only for sequences that guess. What
it has missed of one, its prompt first of all, it reads when the sequence next guesses; ``_FilledSlots`` knows how much
that is. A wrong or missing entry there could only make guesses worse: the large model decides.
"""

import dataclasses
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from msgspec.structs import replace

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.models.base import Model
from segue.models.guessing_heads import ComputeLogits
from segue.runner.drafting import Sampled, with_guesses
from segue.runner.input_batch import KVCaches, input_batch, wanted_rows
from segue.runner.native_model import native_model

__all__ = ["DraftModel"]

MAX_CATCH_UP_TOKENS = 512
"""Read in one step for all sequences; a sequence that misses more waits with its guesses for the next step."""


class DraftModel:
    def __init__(self, model: Model, kv_caches: KVCaches, block_size: int, device: torch.device) -> None:
        """``kv_caches``: as many blocks as the large model's pool has."""
        assert not model.is_encoder_decoder
        self.model, self.kv_caches = native_model(model, kv_caches), kv_caches
        self._block_size, self._device = block_size, device
        self._filled = _FilledSlots(kv_caches[0][0].shape[0], block_size)

    def extend(self, batch: ScheduledBatch) -> ScheduledBatch:
        """``batch`` with guesses at the end of the sequences that have slots for them."""
        for sequence in batch.sequences:
            self._filled.overwrite(sequence)
        guesses = self._guess([s for s in batch.sequences if s.num_draft_slots])
        if not guesses:
            return batch
        return replace(batch, sequences=[with_guesses(s, guesses.get(s.seq_id, [])) for s in batch.sequences])

    def learn(self, sampled: Sampled, compute_logits: ComputeLogits) -> None:
        """Nothing: it reads the history itself when it is asked."""

    def _guess(self, sequences: Seq[ScheduledSequence]) -> dict[int, list[int]]:
        """By ``seq_id``."""
        texts = self._catch_up(sequences)
        guesses: dict[int, list[int]] = {text.sequence.seq_id: [] for text in texts}
        while texts:
            for text, token_id in zip(texts, self._run(texts), strict=True):
                guesses[text.sequence.seq_id].append(token_id)
                text.token_ids, text.start = [token_id], text.end
            texts = [text for text in texts if len(guesses[text.sequence.seq_id]) < self._most_guesses(text.sequence)]
        return guesses

    def _catch_up(self, sequences: Seq[ScheduledSequence]) -> "list[_Text]":
        """Those that are to guess now, each with what is still to be read; others are brought nearer to that."""
        ready: list[_Text] = []
        partial: list[_Text] = []
        room = MAX_CATCH_UP_TOKENS
        for sequence in sequences:
            if self._most_guesses(sequence) < 1:
                continue
            start = self._filled.count(sequence)
            text = _Text(sequence, list(sequence.history[start : start + room]), start)
            room -= len(text.token_ids)
            if text.end < len(sequence.history):
                partial += [text] if text.token_ids else []
            else:
                ready.append(text)
        if partial:
            self._run(partial)
        return ready

    def _most_guesses(self, sequence: ScheduledSequence) -> int:
        """As many as the draft model has positions for."""
        limit = self.model.max_positions
        if limit is None:
            return sequence.num_draft_slots
        return min(sequence.num_draft_slots, limit - len(sequence.history) + 1)

    def _run(self, texts: "Seq[_Text]") -> list[int]:
        """Read each text; the likeliest token after each."""
        for text in texts:
            self._filled.fill(text.sequence, text.start, text.end)
        # The attention operator wants single tokens first.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i].token_ids) > 1)
        batch = ScheduledBatch(
            sequences=[
                replace(
                    texts[i].sequence,
                    token_ids=texts[i].token_ids,
                    num_computed_tokens=texts[i].start,
                    num_draft_tokens=0,
                    num_draft_slots=0,
                )
                for i in order
            ],
            num_decode_sequences=sum(len(text.token_ids) == 1 for text in texts),
        )
        inputs = input_batch(batch, self.kv_caches, self._block_size, self._device, self.model.long_prompt_boundary)
        # A vocabulary that is padded further has ids that this one lacks; no text holds them.
        ctx = dataclasses.replace(inputs.ctx, wanted=[1] * len(texts))
        hidden = self.model(inputs.input_ids.clamp(max=self.model.vocab_size - 1), inputs.positions, ctx)
        ids: list[int] = self.model.compute_logits(wanted_rows(hidden, ctx)).argmax(-1).tolist()
        chosen = [0] * len(texts)
        for i, token_id in zip(order, ids, strict=True):
            chosen[i] = token_id
        return chosen


@dataclass(slots=True)
class _Text:
    """Tokens of one sequence for the draft model to read, from position ``start`` on."""

    sequence: ScheduledSequence
    token_ids: list[int]
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


class _FilledSlots:
    """How many leading slots of each block hold the draft model's K/V for the tokens that the large model has there."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._counts = [0] * num_blocks
        self._block_size = block_size

    def overwrite(self, sequence: ScheduledSequence) -> None:
        """The large model writes from ``num_computed_tokens`` on: what the draft model has there is of other tokens."""
        first, offset = divmod(sequence.num_computed_tokens, self._block_size)
        table, counts = sequence.block_table, self._counts
        counts[table[first]] = min(counts[table[first]], offset)
        for i in range(first + 1, len(table)):
            counts[table[i]] = 0

    def count(self, sequence: ScheduledSequence) -> int:
        """Leading tokens of the sequence that the draft model need not read."""
        size = self._block_size
        for i, block_id in enumerate(sequence.block_table):
            if self._counts[block_id] < size:
                return i * size + self._counts[block_id]
        raise AssertionError("the tokens of this step are in no block")

    def fill(self, sequence: ScheduledSequence, start: int, end: int) -> None:
        """Positions ``start … end - 1`` are being read; those before them were."""
        size = self._block_size
        for i in range(start // size, -(-end // size)):
            self._counts[sequence.block_table[i]] = min(size, end - i * size)
