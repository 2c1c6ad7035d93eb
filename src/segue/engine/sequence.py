"""One request's state in the engine."""

import secrets
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from segue.core.batch import EncoderInput
from segue.core.request import Request
from segue.engine.grammars import PreparedGrammar

if TYPE_CHECKING:
    from segue.engine.speculation import Drafting

__all__ = ["EncoderBlocks", "Sequence", "SequenceStatus"]


class SequenceStatus(Enum):
    WAITING = auto()
    RUNNING = auto()
    FINISHED = auto()
    """Stopped, failed or aborted: it owns nothing any more."""


@dataclass(slots=True, eq=False)
class EncoderBlocks:
    """The cross-attention K/V of one encoder input; shared, read only, and only ever whole."""

    block_table: list[int]
    view: EncoderInput
    """What a step that only reads the blocks is given."""
    digest: bytes | None
    """Its key in the encoder cache; None if it is private to one sequence."""


@dataclass(slots=True, eq=False)
class Sequence:
    """Changed only by the scheduler and, for its blocks, by the block manager.

    ``token_ids`` and ``block_table`` are lent to the runner during a step: they grow in place between steps, and are
    replaced, never cleared, when the sequence gives them up.
    """

    seq_id: int
    """Grows with arrival: it is the sequence's age, the smaller the older."""
    request: Request
    seed: int
    uses_cache: bool
    """Whether it looks up and registers blocks in the prefix and encoder caches."""
    num_prompt_tokens: int
    token_ids: list[int]
    """Prompt, then output."""
    status: SequenceStatus = SequenceStatus.WAITING
    num_computed_tokens: int = 0
    """Tokens whose K/V is in ``block_table``."""
    block_table: list[int] = field(default_factory=list)
    num_registered_blocks: int = 0
    """Leading blocks of ``block_table`` that were found in, or offered to, the prefix cache."""
    has_offered_tail: bool = False
    """Whether the block with the end of its prompt was found in, or offered to, the prefix cache as such."""
    digests: list[bytes] = field(default_factory=list)
    """Digests of the first full blocks, as far as they were needed; tokens never change, so neither do they."""
    root_digest: bytes = b""
    encoder_digest: bytes | None = None
    encoder_blocks: EncoderBlocks | None = None
    num_cached_tokens: int = 0
    """Prompt and encoder tokens that the caches held when it was first admitted."""
    scheduled_time: float | None = None
    has_output: bool = False
    grammar: PreparedGrammar | None = None
    """Of a request with a grammar; held until the end, so that it stays compiled."""
    drafting: "Drafting | None" = None
    """What speculation knows of it; None before its first guess."""
    prompt_logprobs: list[float] = field(default_factory=list)
    """Of prompt positions ``1 … num_computed_tokens``, until they are sent with the first token."""

    @classmethod
    def from_request(cls, seq_id: int, request: Request, *, enable_caching: bool) -> "Sequence":
        """A waiting sequence; without a seed in the request one is drawn at random."""
        seed = request.sampling.seed
        return cls(
            seq_id=seq_id,
            request=request,
            seed=secrets.randbits(64) if seed is None else seed,
            uses_cache=enable_caching and not request.sampling.prompt_logprobs,
            num_prompt_tokens=len(request.prompt_token_ids),
            token_ids=list(request.prompt_token_ids),
        )

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_encoder_tokens(self) -> int:
        return len(self.request.encoder_token_ids or ())

    @property
    def max_tokens(self) -> int:
        """Most tokens it may come to hold, encoder input included."""
        return self.num_prompt_tokens + self.request.stop.max_new_tokens + self.num_encoder_tokens
