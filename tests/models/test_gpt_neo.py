"""GPT-Neo against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, edit_weights, hf_logits, logits
from parity import check_family, save_random_model
from transformers import GPTNeoConfig

from segue.core.errors import ConfigError

SMALL: dict[str, Any] = {"vocab_size": 97, "hidden_size": 36, "num_heads": 4, "max_position_embeddings": 128}

CONFIGS = {
    "global and local": GPTNeoConfig(
        **SMALL, num_layers=4, attention_types=[[["global", "local"], 2]], window_size=7, intermediate_size=50
    ),
    "all local": GPTNeoConfig(**SMALL, num_layers=2, attention_types=[[["local"], 2]], window_size=1),
    "all global, untied": GPTNeoConfig(
        **SMALL, num_layers=3, attention_types=[[["global"], 3]], tie_word_embeddings=False, activation_function="relu"
    ),
    "runs of kinds": GPTNeoConfig(
        **SMALL, num_layers=3, attention_types=[[["local"], 2], [["global"], 1]], window_size=20
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def test_checkpoint_with_masks_and_no_prefix(tmp_path: Path) -> None:
    model = save_random_model(CONFIGS["global and local"], tmp_path)

    def as_first_published(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masks = {f"h.{i}.attn.attention.bias": torch.ones(1, 1, 128, 128).tril() for i in range(4)}
        masks |= {f"h.{i}.attn.attention.masked_bias": torch.tensor(-1e9) for i in range(4)}
        return masks | {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}

    edit_weights(tmp_path, as_first_published)
    ids = list(range(5, 30))
    torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_attention_types_must_name_every_layer(tmp_path: Path) -> None:
    save_random_model(CONFIGS["all local"], tmp_path)
    edit_config(tmp_path, lambda values: values.update(attention_types=[[["local"], 3]]))
    with pytest.raises(ConfigError, match="attention_types"):
        logits(tmp_path, [5])


def test_bfloat16(tmp_path: Path) -> None:
    save_random_model(CONFIGS["global and local"], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
