"""Phi-3 against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, hf_logits, logits
from parity import Served, check_family, save_random_model
from transformers import Phi3Config

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
}


def longrope(rotary_dim: int = 12, **options: Any) -> dict[str, Any]:
    half = rotary_dim // 2
    return {
        "rope_type": "longrope",
        "rope_theta": 500.0,
        "short_factor": [1.0 + 0.1 * i for i in range(half)],
        "long_factor": [1.5 + 2.0 * i for i in range(half)],
        **options,
    }


LONG: dict[str, Any] = {**SMALL, "original_max_position_embeddings": 64}
"""A prompt of up to 24 tokens and its 40 new ones stay below 64; one of 65 or more is long from its first token on."""

CONFIGS = {
    "default": Phi3Config(**SMALL),
    "window, tied": Phi3Config(**SMALL, sliding_window=11, tie_word_embeddings=True),
    "all kv heads, partly rotated": Phi3Config(
        **{**SMALL, "num_key_value_heads": None},
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    ),
    "longrope": Phi3Config(**LONG, rope_parameters=longrope()),
    "longrope, partly rotated, window": Phi3Config(
        **LONG, sliding_window=20, rope_parameters=longrope(8, partial_rotary_factor=0.7, attention_factor=1.3)
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path, prompt_lens=(23, 1, 8, 65, 90))


def test_a_long_prompt_does_not_reuse_the_keys_of_a_short_one(tmp_path: Path) -> None:
    """They begin with the same tokens and are rotated by other factors."""
    save_random_model(CONFIGS["longrope"], tmp_path, gain=3.0, embedding_std=0.05)
    prompt = [3 + i * i % 90 for i in range(80)]
    alone = Served(tmp_path).generate([prompt])
    served = Served(tmp_path)
    served.generate([prompt[:60]])
    assert served.generate([prompt]) == alone
    assert served.generate([prompt]) == alone
    assert served.num_cached_tokens >= 76, "the second long prompt found nothing in the cache"


@pytest.mark.parametrize("name", ["longrope", "su", "yarn"])
def test_files_of_transformers_4(name: str, tmp_path: Path) -> None:
    model = save_random_model(CONFIGS["longrope"], tmp_path)

    def old_keys(values: dict[str, Any]) -> None:
        rope = values.pop("rope_parameters")
        values["rope_theta"] = rope["rope_theta"]
        values["rope_scaling"] = {
            "type": name,
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"],
        }

    edit_config(tmp_path, old_keys)
    for num_tokens in (64, 65):
        ids = [3 + i * i % 90 for i in range(num_tokens)]
        torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_bfloat16(tmp_path: Path) -> None:
    save_random_model(CONFIGS["longrope"], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
