"""Guesses are verified by sampling after each of them, with the history and the random number of that place.

What is sampled is what would have been sampled without guesses, so it is taken; as long as it equals the guess, the
next place counts as well. This is speculative sampling (Leviathan et al. 2023, Chen et al. 2023) for proposals that
are certain of themselves, with the random numbers shared between proposal and test: outputs are not only distributed
alike but equal.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from msgspec.structs import replace

from segue.core.batch import ScheduledSequence
from segue.core.errors import GenerationError
from segue.core.output import TokenOutput
from segue.sampling.row import SamplingRow

__all__ = ["Verdict", "sampling_rows", "verify", "without_guesses"]


@dataclass(frozen=True, slots=True)
class Verdict:
    tokens: tuple[TokenOutput, ...]
    """At least one, except where the first place failed."""
    num_accepted: int
    """The first so many guesses came true, the last token not counted: it is to be run in the next step."""
    failure: tuple[SamplingRow, GenerationError] | None
    """Where and why it ended early. With tokens it is no error yet: the next step comes to that place again."""


def sampling_rows(sequence: ScheduledSequence) -> list[SamplingRow]:
    """One a row of logits: after the last certain token, then after each guess."""
    num_certain = len(sequence.token_ids) - sequence.num_draft_tokens
    drafts = sequence.token_ids[num_certain:]
    return [
        SamplingRow(
            params=sequence.sampling,
            history=[*sequence.history, *drafts[:i]] if i else sequence.history,
            seed=sequence.seed,
            position=len(sequence.history) + i,
            num_prompt_tokens=sequence.num_prompt_tokens,
            seq_id=sequence.seq_id,
        )
        for i in range(len(drafts) + 1)
    ]


def without_guesses(sequence: ScheduledSequence) -> ScheduledSequence:
    num_certain = len(sequence.token_ids) - sequence.num_draft_tokens
    return replace(sequence, token_ids=sequence.token_ids[:num_certain], num_draft_tokens=0, num_draft_slots=0)


def verify(
    drafts: Seq[int],
    rows: Seq[SamplingRow],
    results: Seq[TokenOutput | GenerationError],
    forced_after: Callable[[SamplingRow, TokenOutput], tuple[TokenOutput, ...]],
) -> Verdict:
    """``rows`` and ``results``: one more than ``drafts``. ``forced_after``: what can only follow a sampled token, which
    takes up the guesses of its places without regard to what was sampled there."""
    tokens: list[TokenOutput] = []
    num_accepted = 0
    while len(tokens) <= len(drafts):
        place = len(tokens)
        result = results[place]
        if isinstance(result, GenerationError):
            return Verdict(tuple(tokens), max(0, place - 1), (rows[place], result))
        tokens += (result, *forced_after(rows[place], result))
        while num_accepted < min(len(drafts), len(tokens)) and drafts[num_accepted] == tokens[num_accepted].token_id:
            num_accepted += 1
        if num_accepted < len(tokens):
            break
    return Verdict(tuple(tokens), min(num_accepted, len(tokens) - 1), None)
