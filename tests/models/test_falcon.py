"""Falcon against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, hf_logits, logits
from parity import check_family, save_random_model
from transformers import FalconConfig

SMALL: dict[str, Any] = {"vocab_size": 97, "num_hidden_layers": 3, "max_position_embeddings": 128}
WIDE: dict[str, Any] = {**SMALL, "hidden_size": 60, "num_attention_heads": 6}
RW: dict[str, Any] = {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False}

CONFIGS = {
    "7B": FalconConfig(**WIDE),
    "7B, one after the other, untied": FalconConfig(**WIDE, parallel_attn=False, tie_word_embeddings=False, bias=True),
    "all kv heads": FalconConfig(**WIDE, multi_query=False, ffn_hidden_size=50, activation="relu"),
    "40B": FalconConfig(**WIDE, new_decoder_architecture=True, num_kv_heads=2),
    "40B, all kv heads, biases": FalconConfig(**WIDE, new_decoder_architecture=True, bias=True),
    "11B: one norm": FalconConfig(
        **WIDE,
        new_decoder_architecture=True,
        num_kv_heads=3,
        num_ln_in_parallel_attn=1,
        rope_parameters={"rope_type": "default", "rope_theta": 500042.0},
    ),
    "RW": FalconConfig(**WIDE, **RW),
    "7B with ALiBi": FalconConfig(**SMALL, hidden_size=50, num_attention_heads=5, alibi=True),
    "rope linear": FalconConfig(**WIDE, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def test_alibi_is_rounded_as_in_training(tmp_path: Path) -> None:
    """Slopes and products are bfloat16's, whose steps are 2 wide at position 400: plain ALiBi differs by far."""
    model = save_random_model(FalconConfig(**SMALL, hidden_size=50, num_attention_heads=5, alibi=True), tmp_path)
    ids = [3 + i * i % 90 for i in range(250)]
    torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("RefinedWebModel", FalconConfig(**WIDE)),
        ("RefinedWebModel", FalconConfig(**WIDE, **RW)),
        ("RefinedWeb", FalconConfig(**WIDE, new_decoder_architecture=True, num_kv_heads=2)),
    ],
)
def test_first_published_files(model_type: str, config: FalconConfig, tmp_path: Path) -> None:
    model = save_random_model(config, tmp_path)

    def old_keys(values: dict[str, Any]) -> None:
        values["model_type"] = model_type
        for old, new in (("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads")):
            values[old] = values.pop(new)
        num_kv_heads = values.pop("num_kv_heads")
        if model_type == "RefinedWeb":
            values["n_head_kv"] = num_kv_heads
        for key in ("new_decoder_architecture", "num_ln_in_parallel_attn", "ffn_hidden_size", "activation"):
            values.pop(key, None)
        for key in ("rope_parameters", "max_position_embeddings", "tie_word_embeddings"):
            values.pop(key, None)

    edit_config(tmp_path, old_keys)
    ids = list(range(5, 30))
    torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["7B", "RW"])
def test_bfloat16(name: str, tmp_path: Path) -> None:
    save_random_model(CONFIGS[name], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
