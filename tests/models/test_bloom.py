"""BLOOM against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, edit_weights, hf_logits, logits
from parity import check_family, save_random_model
from transformers import BloomConfig

SMALL: dict[str, Any] = {"vocab_size": 97, "n_layer": 3}

CONFIGS = {
    "8 heads": BloomConfig(**SMALL, hidden_size=40, n_head=8),
    "6 heads": BloomConfig(**SMALL, hidden_size=42, n_head=6),
    "5 heads, residual after norm": BloomConfig(
        **SMALL, hidden_size=45, n_head=5, apply_residual_connection_post_layernorm=True
    ),
    "untied": BloomConfig(**SMALL, hidden_size=36, n_head=3, tie_word_embeddings=False, layer_norm_epsilon=1e-3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def test_first_published_files(tmp_path: Path) -> None:
    """bloom-560m's: no ``transformer.`` in front, ``n_embed`` and ``num_attention_heads`` in config.json."""
    model = save_random_model(CONFIGS["6 heads"], tmp_path)

    def old_keys(values: dict[str, Any]) -> None:
        values["n_embed"] = values.pop("hidden_size")
        values["num_attention_heads"] = values.pop("n_head")
        values.pop("tie_word_embeddings", None)

    edit_weights(
        tmp_path, lambda tensors: {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    )
    edit_config(tmp_path, old_keys)
    ids = list(range(5, 30))
    torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_bfloat16(tmp_path: Path) -> None:
    save_random_model(CONFIGS["6 heads"], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
