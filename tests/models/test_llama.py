"""Llama, Mistral, Qwen 2 and Qwen 3 against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, edit_weights, hf_logits, logits
from parity import check_family, save_random_model
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


def test_dynamic_rope_past_its_length(tmp_path: Path) -> None:
    """Each token beyond 32 positions grows the base, for itself alone."""
    config = LlamaConfig(**{**SMALL, "max_position_embeddings": 32}, rope_parameters=ROPE_KINDS["dynamic"])
    check_family(config, tmp_path)


def same_logits(model: Any, folder: Path) -> None:
    ids = list(range(5, 40))
    torch.testing.assert_close(logits(folder, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_files_of_transformers_4(tmp_path: Path) -> None:
    """Rope settings in two keys, frequencies beside the weights, no key for what has a default."""
    config = LlamaConfig(**{**SMALL, "num_key_value_heads": 6}, rope_parameters=ROPE_KINDS["llama3"])
    model = save_random_model(config, tmp_path)

    def old_keys(values: dict[str, Any]) -> None:
        rope = values.pop("rope_parameters")
        values["rope_theta"] = rope.pop("rope_theta")
        values["rope_scaling"] = rope
        for key in ("attention_bias", "mlp_bias", "head_dim", "num_key_value_heads", "tie_word_embeddings"):
            values.pop(key, None)

    def with_frequencies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        extra = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(3) for i in range(3)}
        return tensors | extra

    edit_config(tmp_path, old_keys)
    edit_weights(tmp_path, with_frequencies)
    same_logits(model, tmp_path)


def test_qwen2_has_no_windows_unless_it_says_so(tmp_path: Path) -> None:
    model = save_random_model(Qwen2Config(**SMALL), tmp_path)

    def window_without_switch(values: dict[str, Any]) -> None:
        values.update(sliding_window=3, max_window_layers=0)
        del values["use_sliding_window"], values["layer_types"]

    edit_config(tmp_path, window_without_switch)
    same_logits(model, tmp_path)


def test_checkpoint_saved_from_the_inner_model(tmp_path: Path) -> None:
    model = save_random_model(CONFIGS["tied"], tmp_path)
    edit_weights(tmp_path, lambda tensors: {name.removeprefix("model."): t for name, t in tensors.items()})
    same_logits(model, tmp_path)


@pytest.mark.parametrize("name", ["odd head_dim", "mistral window", "qwen2", "qwen3"])
def test_bfloat16(name: str, tmp_path: Path) -> None:
    save_random_model(CONFIGS[name], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
