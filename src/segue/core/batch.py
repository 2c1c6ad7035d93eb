"""One step's work: ``ScheduledBatch`` goes from the engine to the runner, ``StepOutput`` comes back.

Both live in one process and hold references, not copies: the lists below belong to the engine, which changes them
only between steps; the runner reads them during ``execute`` and keeps none. They are made for every token, so they are
``Struct``, as what comes back is (``output.py``).
"""

from collections.abc import Sequence as Seq

from msgspec import Struct

from segue.core.output import TokenOutput
from segue.core.request import SamplingParams

__all__ = ["EncoderInput", "ScheduledBatch", "ScheduledSequence", "Speculated", "StepOutput"]


class EncoderInput(Struct, frozen=True, gc=False, kw_only=True):
    """A sequence's encoder side. Cross-attention K/V fill ``block_table`` once, from slot 0, and are read only."""

    token_ids: Seq[int]
    block_table: Seq[int]
    """Covers ``len(token_ids)`` slots."""
    run: bool
    """True in the one step that must run the encoder and write the blocks, before any decoder layer reads them.
    Several sequences of a step may share one block table; ``run`` is True for only one of them."""


class ScheduledSequence(Struct, frozen=True, gc=False, kw_only=True):
    """The part of one sequence that runs in this step.

    ``token_ids[i]`` has position ``num_computed_tokens + i`` and its K/V goes to that slot of ``block_table``.
    """

    seq_id: int
    token_ids: Seq[int]
    """[num_scheduled_tokens], at least one; 1 = decode, more = prefill chunk, or a decode with guesses behind it."""
    num_computed_tokens: int
    """Tokens whose K/V is in the blocks already."""
    block_table: Seq[int]
    """Covers ``num_computed_tokens + len(token_ids) + num_draft_slots`` slots; may be longer."""
    sampling: SamplingParams
    needs_token: bool
    """False for a prefill chunk that is not the last: nothing is sampled."""
    history: Seq[int]
    """All token ids so far, prompt and output, for penalties and the watermark."""
    num_prompt_tokens: int
    seed: int
    """Unsigned 64 bits; with the token's position it fixes the random number, whatever else is in the batch."""
    encoder: EncoderInput | None = None
    num_draft_tokens: int = 0
    """So many at the end of ``token_ids`` are guesses, not in ``history``: a token is sampled after the last certain
    one and after each guess, and taken as long as all guesses before it came true."""
    num_draft_slots: int = 0
    """So many tokens may the runner's draft model guess besides; only where ``num_draft_tokens`` is 0."""


class ScheduledBatch(Struct, frozen=True, gc=False, kw_only=True):
    """Decodes come first, then prefill chunks."""

    sequences: Seq[ScheduledSequence]
    num_decode_sequences: int
    """The first so many sequences have exactly one token each."""
    max_steps: int = 1
    """The runner may go on by itself until each sequence got so many tokens, as if each came in a step of its own. More
    than 1 only where all are decodes without guesses and plain (``SamplingParams``), with slots for that many."""
    stop_token_ids: frozenset[int] = frozenset()
    """A step that gives any of these is the last."""
    news_file: int = -1
    """The number of a file; a step that ends when it can be read is the last."""

    @property
    def num_tokens(self) -> int:
        return sum(len(s.token_ids) for s in self.sequences)


class Speculated(Struct, frozen=True, gc=False):
    """What became of one sequence's guesses in a step."""

    num_drafts: int
    num_accepted: int
    """The first so many came true: their K/V stand."""


class StepOutput(Struct, frozen=True, gc=False, kw_only=True):
    tokens: dict[int, tuple[TokenOutput, ...]]
    """seq_id → sampled tokens, for each sequence with ``needs_token`` that is not in ``errors``."""
    num_steps: int = 1
    """How many were run. Each of several gave every sequence a token, and wrote the K/V of the one before."""
    speculated: dict[int, Speculated] = {}
    """seq_id → for each sequence in ``tokens`` that had guesses, the engine's or the draft model's."""
    errors: dict[int, str] = {}
    """seq_id → why this sequence alone failed (e.g. its logits are not finite); the others' results stand."""
    prompt_logprobs: dict[int, Seq[float]] = {}
    """seq_id → logprobs of the prompt tokens that follow each token of this chunk (so of positions
    ``num_computed_tokens + 1`` up to ``num_computed_tokens + len(token_ids)``, prompt tokens only)."""
    forward_s: float = 0.0
    sample_s: float = 0.0
