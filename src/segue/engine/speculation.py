"""Speculation: how many tokens to guess for whom, and the guesses that need no model.

A guess is verified by running it with the rest of the step: its positions are chunks of a few tokens, and what the
sampler chooses at each of them is taken as long as it equals the guess. So guesses change when tokens come, never
which.

Verifying costs arithmetic, while a decode waits for the weights to be read. It pays only while a step has few tokens:
``EngineConfig.max_speculative_step_tokens`` bounds a step that holds guesses, and what decodes and prefills leave of
it goes to the oldest sequences first. A sequence whose guesses fail guesses less (``Pace``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from segue.core.batch import ScheduledSequence, Speculated
from segue.engine.block_manager import BlockManager
from segue.engine.config import EngineConfig
from segue.engine.ngram_index import SEPARATOR, NgramIndex
from segue.engine.sequence import Sequence

__all__ = ["Drafting", "Pace", "Speculator"]

LONGEST_PAUSE = 32


@dataclass(slots=True)
class Pace:
    """How much one sequence guesses at a time: as long as guesses come true more, else one more than came true.

    When not even single guesses come true it pauses, twice as long each time.
    """

    most: int
    num_tokens: int = 0
    """To guess next."""
    num_paused: int = 0
    """Steps to go until then."""
    _pause: int = 0

    def __post_init__(self) -> None:
        self.num_tokens = self.most

    def next_tokens(self) -> int:
        """For the step at hand; 0: none."""
        if self.num_paused:
            self.num_paused -= 1
            return 0
        return self.num_tokens

    def learn(self, num_drafts: int, num_accepted: int) -> None:
        """What became of the guesses; nothing is learned where there were none."""
        if num_drafts == 0:
            return
        if num_accepted == num_drafts:
            self.num_tokens = min(self.most, max(self.num_tokens, 2 * num_drafts))
        else:
            self.num_tokens = min(self.most, num_accepted + 1)
        if num_accepted:
            self._pause = 0
        elif num_drafts == 1:
            self._pause = min(LONGEST_PAUSE, 2 * self._pause or 1)
            self.num_paused = self._pause


@dataclass(slots=True)
class Drafting:
    """What speculation knows of one sequence. Its tokens never change, so preemption does not touch it."""

    pace: Pace
    index: NgramIndex = field(default_factory=NgramIndex)
    num_indexed_tokens: int = 0
    """Of ``Sequence.token_ids``."""

    def continuation(self, seq: Sequence, limit: int) -> list[int]:
        """Prompt, output and, of an encoder-decoder, the source: looked up for how they go on after the last tokens."""
        index = self.index
        if len(index) == 0 and seq.request.encoder_token_ids is not None:
            index.extend((*seq.request.encoder_token_ids, SEPARATOR))
        index.extend(seq.token_ids[self.num_indexed_tokens :])
        self.num_indexed_tokens = len(seq.token_ids)
        return index.continuation(limit)


class Speculator:
    """Adds guesses to a step that is scheduled otherwise."""

    def __init__(self, config: EngineConfig, blocks: BlockManager) -> None:
        self._num_tokens = config.num_speculative_tokens
        self._has_draft_model = config.has_draft_model
        self._step_tokens = min(config.max_speculative_step_tokens, config.max_batch_prefill_tokens)
        self._blocks = blocks

    def extend(
        self,
        decodes: list[ScheduledSequence],
        prefills: list[ScheduledSequence],
        sequences: Mapping[int, Sequence],
    ) -> list[ScheduledSequence]:
        """Take those that guess out of ``decodes`` and return them; extend in place those of ``prefills`` that go on
        after forced tokens. Guesses take the tokens and blocks that are left, and nothing from anybody."""
        if self._num_tokens == 0:
            return []
        room = self._step_tokens - sum(map(_num_tokens, (*decodes, *prefills)))
        speculating: list[ScheduledSequence] = []
        kept: list[ScheduledSequence] = []
        for scheduled in decodes:
            extended = self._with_guesses(scheduled, sequences[scheduled.seq_id], room)
            if extended is None:
                kept.append(scheduled)
            else:
                speculating.append(extended)
                room -= _num_guesses(extended)
        decodes[:] = kept
        for i, scheduled in enumerate(prefills):
            seq = sequences[scheduled.seq_id]
            if scheduled.needs_token and seq.num_output_tokens:
                extended = self._with_guesses(scheduled, seq, room)
                if extended is not None:
                    prefills[i] = extended
                    room -= _num_guesses(extended)
        return speculating

    def learn(self, seq: Sequence, speculated: Speculated) -> None:
        assert seq.drafting is not None
        seq.drafting.pace.learn(speculated.num_drafts, speculated.num_accepted)

    def _with_guesses(self, scheduled: ScheduledSequence, seq: Sequence, room: int) -> ScheduledSequence | None:
        # The step gives one token more than comes true of the guesses, and at most so many are wanted.
        limit = min(room, seq.request.stop.max_new_tokens - seq.num_output_tokens - 1)
        if limit < 1:
            return None
        if seq.drafting is None:
            seq.drafting = Drafting(Pace(self._num_tokens))
        limit = min(limit, seq.drafting.pace.next_tokens())
        if limit < 1:
            return None
        drafts = [] if self._has_draft_model else seq.drafting.continuation(seq, limit)
        num_guesses = limit if self._has_draft_model else len(drafts)
        num_guesses = self._blocks.reserve(seq, len(seq.token_ids) + num_guesses) - len(seq.token_ids)
        if num_guesses < 1:
            return None
        if self._has_draft_model:
            return replace(scheduled, num_draft_slots=num_guesses)
        return replace(scheduled, token_ids=[*scheduled.token_ids, *drafts[:num_guesses]], num_draft_tokens=num_guesses)


def _num_tokens(scheduled: ScheduledSequence) -> int:
    encoder = scheduled.encoder
    return len(scheduled.token_ids) + (len(encoder.token_ids) if encoder is not None and encoder.run else 0)


def _num_guesses(scheduled: ScheduledSequence) -> int:
    return scheduled.num_draft_tokens + scheduled.num_draft_slots
