"""The lengths and budgets that nobody set: from the model, its tokenizer and the memory (TGI's auto-configuration)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.core.output import EngineInfo

if TYPE_CHECKING:
    from segue.runner.build import ModelFacts

__all__ = ["engine_info", "longest_whole_prompt", "tokenizer_max_length"]

DEFAULT_MAX_TOTAL_TOKENS = 4096
"""For models without a limit of their own (T5, ALiBi): else a request without max_new_tokens might never end."""
DEFAULT_PREFILL_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Bounds how long a step takes, and so how long running streams wait while a new prompt is read."""


def engine_info(config: ServeConfig, facts: "ModelFacts", model_max_length: int | None) -> EngineInfo:
    """What the server is told. ``model_max_length`` is the tokenizer's.

    Raises ConfigError when the limits that were set cannot be met by this model in this memory.
    """
    pool_tokens = facts.num_blocks * facts.block_size
    prefill_tokens = config.max_batch_prefill_tokens
    if prefill_tokens is None:
        default = max(DEFAULT_PREFILL_TOKENS.get(facts.device.partition(":")[0], 4096), longest_whole_prompt(config))
        prefill_tokens = min(default, facts.max_positions or default, pool_tokens)
    max_total_tokens = _max_total_tokens(config, facts, model_max_length)
    if not config.prefill_chunking and config.max_total_tokens is None:
        # TGI's: what one step reads is then the longest prompt, and its default of the whole.
        max_total_tokens = min(max_total_tokens, max(prefill_tokens, (config.max_input_tokens or 0) + 1))
    max_input_tokens = config.max_input_tokens or max_total_tokens - 1
    if max_input_tokens >= max_total_tokens:
        raise ConfigError(f"`max_input_tokens`({max_input_tokens}) must be < `max_total_tokens`({max_total_tokens})")
    if not config.prefill_chunking and prefill_tokens < max_input_tokens:
        raise ConfigError(
            f"`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: {prefill_tokens} and {max_input_tokens}"
        )
    return EngineInfo(
        model_type=facts.model_type,
        is_encoder_decoder=facts.is_encoder_decoder,
        dtype=facts.dtype,
        device=facts.device,
        device_name=facts.device_name,
        quantize=facts.quantize,
        vocab_size=facts.vocab_size,
        max_input_tokens=max_input_tokens,
        max_total_tokens=max_total_tokens,
        max_batch_prefill_tokens=prefill_tokens,
        max_batch_total_tokens=pool_tokens,
        block_size=facts.block_size,
        num_blocks=facts.num_blocks,
        eos_token_ids=facts.eos_token_ids,
        bos_token_id=facts.bos_token_id,
        decoder_start_token_ids=facts.decoder_start_token_ids,
    )


def tokenizer_max_length(folder: Path) -> int | None:
    """``model_max_length`` of tokenizer_config.json; None where there is none, or the huge number that means so."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None  # a file that is not JSON is reported by the tokenizer, which needs it
    length = config.get("model_max_length") if isinstance(config, dict) else None
    return int(length) if isinstance(length, int | float) and 1 < length < 10**9 else None


def longest_whole_prompt(config: ServeConfig) -> int:
    """Tokens that a step must take where prompts are not cut; 0: as the budget has it."""
    if config.prefill_chunking:
        return 0
    return config.max_input_tokens or (config.max_total_tokens or 1) - 1


def _max_total_tokens(config: ServeConfig, facts: "ModelFacts", model_max_length: int | None) -> int:
    positions = facts.max_positions
    if positions is not None and config.rope_factor is not None:
        positions = int(positions * max(1.0, config.rope_factor))
    fits = _longest_that_fits(facts)
    given = config.max_total_tokens
    if given is None and config.max_input_tokens is not None and positions is None and model_max_length is None:
        given = max(DEFAULT_MAX_TOTAL_TOKENS, config.max_input_tokens + 1)
    if given is None:
        limits = [limit for limit in (positions, model_max_length) if limit is not None]
        return min(fits, *limits) if limits else min(fits, DEFAULT_MAX_TOTAL_TOKENS)
    if positions is not None and given > positions:
        raise ConfigError(f"`max_total_tokens`({given}) must be <= the model's {positions} positions")
    if given > fits:
        raise ConfigError(f"Not enough memory to handle `max_total_tokens={given}`: the KV cache holds {fits} tokens")
    return given


def _longest_that_fits(facts: "ModelFacts") -> int:
    """Tokens of one request that has the whole KV cache to itself."""
    if not facts.is_encoder_decoder:
        longest = facts.num_blocks * facts.block_size
    else:  # input and output fill blocks of their own, so the last block of each may be almost empty
        longest = (facts.num_blocks - 2) * facts.block_size - len(facts.decoder_start_token_ids)
    if longest < 2:
        raise ConfigError(f"Not enough memory: a KV cache of {facts.num_blocks} blocks cannot hold one request")
    return longest
