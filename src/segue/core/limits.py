"""What a router that did not start its engine asks of it; TGI sends the same in its Warmup call."""

from dataclasses import dataclass

__all__ = ["RouterLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLimits:
    """None: as the engine has it. An engine's own limits come from its memory, so these can only be lower."""

    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    max_batch_prefill_tokens: int | None = None
    """At most: an engine with a smaller budget keeps it."""
    max_batch_size: int | None = None
    """At most, too."""
    waiting_served_ratio: float | None = None
    max_waiting_tokens: int | None = None
