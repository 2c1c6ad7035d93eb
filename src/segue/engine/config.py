"""What the engine must be told: sizes and budgets."""

from dataclasses import dataclass, fields

from segue.core.errors import ConfigError

__all__ = ["EngineConfig"]


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
    enable_prefix_caching: bool = True
    """Reuse the blocks of equal prefixes and of equal encoder inputs."""
    long_prompt_boundary: int | None = None
    """The model computes prompts of more tokens differently from their first token on: they share no blocks with
    shorter ones."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1 and not isinstance(value, bool):
                raise ConfigError(f"{field.name} must be at least 1, not {value}")
