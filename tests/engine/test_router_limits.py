"""What a router may ask of an engine that it did not start."""

from typing import Any

import pytest
from fakes import engine_info

from segue.core.errors import ConfigError
from segue.core.limits import RouterLimits
from segue.engine.config import EngineConfig
from segue.engine.router_limits import narrow

CONFIG = EngineConfig(num_blocks=10, block_size=16, max_batch_prefill_tokens=64, max_batch_size=8)
INFO = engine_info(CONFIG)


def test_B2_nothing_asked_changes_nothing() -> None:
    assert narrow(INFO, CONFIG, RouterLimits()) == (INFO, CONFIG)


def test_B2_budgets_are_upper_bounds() -> None:
    limits = RouterLimits(max_batch_prefill_tokens=4096, max_batch_size=2, waiting_served_ratio=1.2)
    info, config = narrow(INFO, CONFIG, limits)
    assert info == INFO
    assert (config.max_batch_prefill_tokens, config.max_batch_size, config.waiting_served_ratio) == (64, 2, 1.2)


@pytest.mark.parametrize(
    ("limits", "lengths"),
    [
        ({"max_total_tokens": 50}, (49, 50)),
        ({"max_input_tokens": 50}, (50, 160)),
        ({"max_input_tokens": 10, "max_total_tokens": 50}, (10, 50)),
    ],
)
def test_B2_lengths(limits: dict[str, int], lengths: tuple[int, int]) -> None:
    info, _ = narrow(INFO, CONFIG, RouterLimits(**limits))
    assert (info.max_input_tokens, info.max_total_tokens) == lengths


@pytest.mark.parametrize(
    ("limits", "config", "message"),
    [
        ({"max_total_tokens": 161}, {}, "Not enough memory to handle `max_total_tokens=161`"),
        (
            {"max_input_tokens": 50, "max_total_tokens": 50},
            {},
            r"`max_input_tokens`\(50\) must be < `max_total_tokens`\(50\)",
        ),
        (
            {"max_input_tokens": 65},
            {"prefill_chunking": False},
            "`max_batch_prefill_tokens` must be >= `max_input_tokens`. Given: 64 and 65",
        ),
    ],
)
def test_B2_more_than_the_engine_has(limits: dict[str, int], config: dict[str, Any], message: str) -> None:
    engine_config = EngineConfig(num_blocks=10, block_size=16, max_batch_prefill_tokens=64, max_batch_size=8, **config)
    with pytest.raises(ConfigError, match=message):
        narrow(INFO, engine_config, RouterLimits(**limits))
