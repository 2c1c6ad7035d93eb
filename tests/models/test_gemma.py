"""Gemma 1, 2 and 3 against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, edit_weights, hf_logits, logits
from parity import check_family, save_random_model
from transformers import Gemma2Config, Gemma3Config, Gemma3TextConfig, GemmaConfig

from segue.core.errors import ConfigError

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 128,
}
VISION: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
    "vision_use_head": False,
}
TWO_BASES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
WIDE_AND_NARROW = ["full_attention", "sliding_attention", "full_attention"]

CONFIGS = {
    "1": GemmaConfig(**SMALL),
    "1, untied, biases": GemmaConfig(**SMALL, tie_word_embeddings=False, attention_bias=True, hidden_act="gelu"),
    "1, rope dynamic": GemmaConfig(
        **SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}
    ),
    "2": Gemma2Config(**SMALL, query_pre_attn_scalar=17, sliding_window=9),
    "2, low caps": Gemma2Config(
        **SMALL, sliding_window=30, attn_logit_softcapping=1.5, final_logit_softcapping=2.0, layer_types=WIDE_AND_NARROW
    ),
    "2, no caps": Gemma2Config(
        **SMALL,
        layer_types=["full_attention"] * 3,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        attention_bias=True,
    ),
    "3": Gemma3TextConfig(**SMALL, query_pre_attn_scalar=17, sliding_window=9, layer_types=WIDE_AND_NARROW),
    "3, two bases": Gemma3TextConfig(
        **SMALL,
        sliding_window=9,
        layer_types=WIDE_AND_NARROW,
        rope_parameters=TWO_BASES,
        final_logit_softcapping=5.0,
        tie_word_embeddings=False,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def same_logits(model: Any, folder: Path) -> None:
    ids = list(range(5, 40))
    torch.testing.assert_close(logits(folder, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_gemma2_windows_and_caps_that_the_file_leaves_out(tmp_path: Path) -> None:
    model = save_random_model(Gemma2Config(**SMALL), tmp_path)
    kept = {"model_type", *SMALL}

    def drop(values: dict[str, Any]) -> None:
        for key in values.keys() - kept:
            del values[key]

    edit_config(tmp_path, drop)
    same_logits(model, tmp_path)


def test_gemma3_files_of_transformers_4(tmp_path: Path) -> None:
    """Windows by ``sliding_window_pattern``, the two bases under keys of their own, scaling for wide layers only."""
    config = Gemma3TextConfig(
        **{**SMALL, "num_hidden_layers": 4},
        sliding_window=9,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters=TWO_BASES,
    )
    model = save_random_model(config, tmp_path)

    def old_keys(values: dict[str, Any]) -> None:
        del values["layer_types"], values["rope_parameters"]
        values.update(sliding_window_pattern=3, rope_theta=5000.0, rope_local_base_freq=100.0)
        values["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}

    edit_config(tmp_path, old_keys)
    same_logits(model, tmp_path)


def test_text_part_of_an_image_model(tmp_path: Path) -> None:
    text = {**SMALL, "sliding_window": 9, "layer_types": WIDE_AND_NARROW}
    check_family(Gemma3Config(text_config=text, vision_config=VISION), tmp_path)


def test_image_model_saved_under_its_module_names(tmp_path: Path) -> None:
    text = {**SMALL, "sliding_window": 9, "layer_types": WIDE_AND_NARROW}
    model = save_random_model(Gemma3Config(text_config=text, vision_config=VISION), tmp_path)

    def module_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        named = {"model." + name.replace("language_model.model.", "language_model."): t for name, t in tensors.items()}
        assert "model.language_model.embed_tokens.weight" in named
        assert any(name.startswith("model.vision_tower.") for name in named)
        return named

    edit_weights(tmp_path, module_names)
    same_logits(model, tmp_path)


def test_models_that_read_both_ways_are_refused(tmp_path: Path) -> None:
    save_random_model(CONFIGS["3"], tmp_path)
    edit_config(tmp_path, lambda values: values.update(use_bidirectional_attention=True))
    with pytest.raises(ConfigError, match="use_bidirectional_attention"):
        logits(tmp_path, [5])


@pytest.mark.parametrize("name", ["1", "2", "3"])
def test_bfloat16(name: str, tmp_path: Path) -> None:
    save_random_model(CONFIGS[name], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
