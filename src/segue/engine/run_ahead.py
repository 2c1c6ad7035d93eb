"""Several steps at a time, where what comes next is known: decodes of plain requests, and nobody waits.

Between two steps the engine's own work costs as much as a tenth of a small model's step. What a step would be told is
its tokens, which the runner knows first; so it is given the slots for some more of them, and goes on by itself until
one ends its sequence or something else is there to do (vLLM's multi-step scheduling, but never past an end).
"""

import math
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq

from segue.core.batch import ScheduledSequence
from segue.engine.block_manager import BlockManager
from segue.engine.gathering import Gathering
from segue.engine.sequence import Sequence

__all__ = ["RunAhead", "stop_token_ids"]

MOST_STEPS = 64


class RunAhead:
    def __init__(self, gathering: Gathering | None, blocks: BlockManager) -> None:
        """``gathering``: for how long at a time; None: never."""
        self._gathering = gathering
        self._blocks = blocks
        self._step_s = math.inf
        """What one took when it was measured last."""
        self.has_reserved = False
        """Whether sequences got slots that they may leave unused, in the step at hand."""

    def begin_step(self) -> None:
        self.has_reserved = False

    def learn(self, num_steps: int, took_s: float) -> None:
        """What decodes took."""
        self._step_s = max(took_s, 1e-9) / num_steps

    def reserve(self, decodes: Seq[ScheduledSequence], sequences: Mapping[int, Sequence]) -> int:
        """How many steps ``decodes`` may take by themselves, with slots reserved for so many tokens of each.

        Slots come from what is free, so nobody is preempted for them.
        """
        if self._gathering is None:
            return 1
        num_steps = min(MOST_STEPS, int(self._gathering.of(len(decodes)) / self._step_s))
        if num_steps <= 1 or not all(scheduled.sampling.is_plain for scheduled in decodes):
            return 1
        running = [sequences[scheduled.seq_id] for scheduled in decodes]
        num_steps = min(num_steps, *[seq.request.stop.max_new_tokens - seq.num_output_tokens for seq in running])
        if num_steps == 1:
            return 1
        self.has_reserved = True
        for seq in running:
            num_computed = seq.num_computed_tokens
            num_steps = min(num_steps, self._blocks.reserve(seq, num_computed + num_steps) - num_computed)
        return num_steps


def stop_token_ids(sequences: Iterable[Sequence]) -> frozenset[int]:
    """Tokens that end any of these."""
    return frozenset().union(
        *{seq.request.stop.eos_token_ids for seq in sequences if not seq.request.sampling.ignore_eos}
    )
