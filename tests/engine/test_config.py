import pytest

from segue.core.errors import ConfigError
from segue.engine.config import EngineConfig


@pytest.mark.parametrize("name", ["num_blocks", "block_size", "max_batch_size", "max_batch_prefill_tokens"])
def test_a_size_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, not 0"):
        EngineConfig(**{"num_blocks": 8, name: 0})


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_chunk_tokens"):
        EngineConfig(num_blocks=8, max_chunk_tokens=0)


def test_caching_can_be_switched_off() -> None:
    assert EngineConfig(num_blocks=8, enable_prefix_caching=False).enable_prefix_caching is False
