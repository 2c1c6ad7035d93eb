"""GPT-NeoX against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, edit_weights, hf_logits, logits
from parity import check_family, save_random_model
from transformers import GPTNeoXConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def rope(share: float = 0.25, **options: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": share, **options}


CONFIGS = {
    "quarter rotated": GPTNeoXConfig(**SMALL, rope_parameters=rope(rope_theta=500.0)),
    "one after the other": GPTNeoXConfig(**SMALL, use_parallel_residual=False, rope_parameters=rope(1.0)),
    "odd rotary share": GPTNeoXConfig(**SMALL, rope_parameters=rope(0.45)),
    "no attention bias, tied": GPTNeoXConfig(
        **SMALL, attention_bias=False, tie_word_embeddings=True, hidden_act="gelu_fast", layer_norm_eps=1e-3
    ),
    "rope linear": GPTNeoXConfig(**SMALL, rope_parameters=rope(0.5, rope_type="linear", factor=2.5)),
    "rope yarn": GPTNeoXConfig(
        **SMALL, rope_parameters=rope(0.5, rope_type="yarn", factor=4.0, original_max_position_embeddings=32)
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def test_files_of_transformers_4(tmp_path: Path) -> None:
    """Pythia's: ``embed_out``, masks and frequencies beside the weights, rope settings under names of their own."""
    model = save_random_model(GPTNeoXConfig(**SMALL, rope_parameters=rope(0.5, rope_theta=500.0)), tmp_path)

    def old_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors = {name.replace("lm_head", "embed_out"): tensor for name, tensor in tensors.items()}
        for i in range(3):
            attention = f"gpt_neox.layers.{i}.attention"
            tensors[f"{attention}.bias"] = torch.ones(1, 1, 128, 128).tril()
            tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{attention}.rotary_emb.inv_freq"] = torch.ones(3)
        return tensors

    def old_keys(values: dict[str, Any]) -> None:
        for key in ("rope_parameters", "attention_bias", "tie_word_embeddings", "use_parallel_residual"):
            values.pop(key, None)
        values.update(rotary_pct=0.5, rotary_emb_base=500)

    edit_weights(tmp_path, old_names)
    edit_config(tmp_path, old_keys)
    ids = list(range(5, 30))
    torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_bfloat16(tmp_path: Path) -> None:
    save_random_model(CONFIGS["quarter rotated"], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
