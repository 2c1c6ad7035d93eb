"""An engine's limits, narrowed for a router."""

from dataclasses import replace

from segue.core.errors import ConfigError
from segue.core.limits import RouterLimits
from segue.core.output import EngineInfo
from segue.engine.config import EngineConfig

__all__ = ["narrow"]


def narrow(info: EngineInfo, config: EngineConfig, limits: RouterLimits) -> tuple[EngineInfo, EngineConfig]:
    """Raises ConfigError, in TGI's words, where ``limits`` are more than the engine can hold."""
    prefill_tokens = _least(config.max_batch_prefill_tokens, limits.max_batch_prefill_tokens)
    max_total_tokens, max_input_tokens = _lengths(info, limits)
    if not config.prefill_chunking and max_input_tokens > prefill_tokens:
        raise ConfigError(
            f"`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: {prefill_tokens} and {max_input_tokens}"
        )
    narrowed = replace(
        info,
        max_input_tokens=max_input_tokens,
        max_total_tokens=max_total_tokens,
        max_batch_prefill_tokens=prefill_tokens,
    )
    ratio, waiting = limits.waiting_served_ratio, limits.max_waiting_tokens
    return narrowed, replace(
        config,
        max_batch_prefill_tokens=prefill_tokens,
        max_batch_size=_least(config.max_batch_size, limits.max_batch_size),
        waiting_served_ratio=config.waiting_served_ratio if ratio is None else ratio,
        max_waiting_tokens=config.max_waiting_tokens if waiting is None else waiting,
    )


def _lengths(info: EngineInfo, limits: RouterLimits) -> tuple[int, int]:
    """(of prompt and generation, of the prompt alone)"""
    total = limits.max_total_tokens
    if total is not None and total > info.max_total_tokens:
        raise ConfigError(
            f"Not enough memory to handle `max_total_tokens={total}`: the engine has at most {info.max_total_tokens}"
        )
    total = total or info.max_total_tokens
    given = limits.max_input_tokens
    if given is not None and given >= total:
        raise ConfigError(f"`max_input_tokens`({given}) must be < `max_total_tokens`({total})")
    if given is not None and given > info.max_input_tokens:
        raise ConfigError(f"`max_input_tokens`({given}) must be <= the engine's {info.max_input_tokens}")
    return total, given or min(total - 1, info.max_input_tokens)


def _least(own: int, asked: int | None) -> int:
    return own if asked is None else min(own, asked)
