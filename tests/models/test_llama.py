"""Llama, Mistral, Qwen 2 and Qwen 3 against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
from parity import check_family
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}

ROPE_KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}

CONFIGS = {
    "odd head_dim": LlamaConfig(**SMALL, head_dim=10),
    "tied": LlamaConfig(**SMALL, tie_word_embeddings=True),
    "biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "one kv head": LlamaConfig(**{**SMALL, "num_key_value_heads": 1}),
    "all kv heads": LlamaConfig(**{**SMALL, "num_key_value_heads": 6}),
    **{f"rope {name}": LlamaConfig(**SMALL, rope_parameters=rope) for name, rope in ROPE_KINDS.items()},
    "mistral": MistralConfig(**SMALL, head_dim=10, sliding_window=None),
    "mistral window": MistralConfig(**SMALL, sliding_window=11),
    "qwen2": Qwen2Config(**SMALL),
    "qwen2 window on some layers": Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=9, max_window_layers=1, tie_word_embeddings=True
    ),
    "qwen3": Qwen3Config(**SMALL, head_dim=14),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)
