"""What guesses inside the runner: a draft model, or heads on the large model's own hidden states."""

from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import torch
from msgspec.structs import replace
from torch import Tensor

from segue.core.batch import ScheduledBatch, ScheduledSequence, Speculated
from segue.core.output import TokenOutput
from segue.models.guessing_heads import ComputeLogits, GuessingHeads

__all__ = ["Drafter", "HeadDrafter", "Sampled", "with_guesses"]

MAX_SEQUENCES = 128
"""In a step of more the heads are not asked: the next one will have no room for guesses."""
MAX_KEPT = 1024
"""Sequences whose guesses are kept; those of ended ones go when newer ones need the room."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One step's samples, where they came from."""

    sequences: Seq[ScheduledSequence]
    hidden: Tensor
    """[num_rows, hidden_size]: of each sequence the row after its last certain token, then after each guess."""
    tokens: Mapping[int, tuple[TokenOutput, ...]]
    speculated: Mapping[int, Speculated]


class Drafter(Protocol):
    def extend(self, batch: ScheduledBatch) -> ScheduledBatch:
        """``batch`` with guesses at the end of the sequences that have slots for them."""

    def learn(self, sampled: Sampled, compute_logits: ComputeLogits) -> None:
        """A step is done; the next one may ask for guesses."""


class HeadDrafter:
    """Guesses from the hidden state behind the last sampled token, made when that is known, kept until they are asked.

    What is kept says where it belongs: after preemption or a failed step it is not used, and nothing is lost but speed.
    """

    def __init__(self, heads: GuessingHeads) -> None:
        self.heads = heads
        self._kept: OrderedDict[int, tuple[int, int, list[int]]] = OrderedDict()
        """By ``seq_id``: position of the first guess, the token before it, the guesses."""

    def extend(self, batch: ScheduledBatch) -> ScheduledBatch:
        if not any(s.num_draft_slots for s in batch.sequences):
            return batch
        return replace(batch, sequences=[with_guesses(s, self._guesses(s)) for s in batch.sequences])

    def _guesses(self, sequence: ScheduledSequence) -> list[int]:
        position, before, guesses = self._kept.get(sequence.seq_id, (0, 0, []))
        if position != len(sequence.history) or before != sequence.history[-1]:
            return []
        return guesses[: sequence.num_draft_slots]

    def learn(self, sampled: Sampled, compute_logits: ComputeLogits) -> None:
        if len(sampled.sequences) > MAX_SEQUENCES:
            return
        sources: list[tuple[int, ScheduledSequence, int]] = []  # (row, sequence, number of tokens)
        first = 0
        for s in sampled.sequences:
            tokens = sampled.tokens.get(s.seq_id, ())
            num_accepted = sampled.speculated[s.seq_id].num_accepted if s.seq_id in sampled.speculated else 0
            # Behind tokens that a grammar forced there is no hidden state yet.
            if tokens and num_accepted == len(tokens) - 1:
                sources.append((first + num_accepted, s, len(tokens)))
            first += 1 + s.num_draft_tokens
        if not sources:
            return
        device = sampled.hidden.device
        last = [sampled.tokens[s.seq_id][-1].token_id for _, s, _ in sources]
        hidden = sampled.hidden.index_select(0, torch.tensor([row for row, _, _ in sources], device=device))
        guesses = self.heads.guess(hidden, torch.tensor(last, device=device), compute_logits).tolist()
        for (_, s, num_tokens), token_id, ids in zip(sources, last, guesses, strict=True):
            self._kept[s.seq_id] = (len(s.history) + num_tokens, token_id, ids)
            self._kept.move_to_end(s.seq_id)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)


def with_guesses(sequence: ScheduledSequence, guesses: list[int]) -> ScheduledSequence:
    if not guesses:
        return sequence
    return replace(sequence, token_ids=[*sequence.token_ids, *guesses], num_draft_tokens=len(guesses))
