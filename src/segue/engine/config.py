"""What the engine must be told: sizes and budgets."""

from dataclasses import dataclass, fields

from segue.core.errors import ConfigError
from segue.engine.gathering import Gathering

__all__ = ["EngineConfig"]

_MAY_BE_0 = ("waiting_served_ratio", "max_waiting_tokens", "num_speculative_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Raises ``ConfigError`` when a size is not positive."""

    num_blocks: int
    """KV blocks in the pool; ids are ``0 … num_blocks - 1``."""
    block_size: int = 16
    """Token slots in a block."""
    max_batch_size: int = 256
    """Most sequences running at a time."""
    max_batch_prefill_tokens: int = 4096
    """Token budget of a step. Decodes take from it first, one each; an encoder input longer than what they leave runs
    as the only prefill of its step."""
    max_chunk_tokens: int | None = None
    """Most prompt tokens of one sequence in a step, so that a long prompt leaves room for others; None: the budget."""
    prefill_chunking: bool = True
    """Cut long prompts and run them beside decodes; else a step reads whole prompts or decodes, by the next two."""
    waiting_served_ratio: float = 0.3
    """Without chunking: prompts come in when so many wait for each running sequence, …"""
    max_waiting_tokens: int = 20
    """… or after so many steps of decoding."""
    num_speculative_tokens: int = 0
    """Most tokens to guess of one sequence in a step; 0: no speculation."""
    max_speculative_step_tokens: int = 128
    """A step of more tokens holds no guesses: there, verifying them costs more than they save."""
    has_draft_model: bool = False
    """The runner guesses, by a model of its own; else past tokens are looked up."""
    run_ahead: Gathering | None = None
    """For so long the runner may go on by itself while nothing but decodes of plain requests is there, if it can; None:
    one step at a time. Tokens come in groups then, this far apart at most."""
    enable_prefix_caching: bool = True
    """Reuse the blocks of equal prefixes and of equal encoder inputs."""
    long_prompt_boundary: int | None = None
    """The model computes prompts of more tokens differently from their first token on: they share no blocks with
    shorter ones."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in _MAY_BE_0 else 1
            if isinstance(value, int | float) and not isinstance(value, bool) and value < least:
                raise ConfigError(f"{field.name} must be at least {least}, not {value}")
