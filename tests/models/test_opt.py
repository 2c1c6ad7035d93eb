"""OPT against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_config, edit_weights, hf_logits, logits
from parity import check_family, save_random_model
from transformers import OPTConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "ffn_dim": 50,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}

CONFIGS = {
    "odd head_dim": OPTConfig(**SMALL),
    "norm after, projected embeddings": OPTConfig(**SMALL, do_layer_norm_before=False, word_embed_proj_dim=20),
    "untied, projected embeddings": OPTConfig(**SMALL, word_embed_proj_dim=44, tie_word_embeddings=False),
    "no final norm": OPTConfig(**SMALL, _remove_final_layer_norm=True),
    "no biases, plain norms": OPTConfig(
        **SMALL, enable_bias=False, layer_norm_elementwise_affine=False, activation_function="gelu"
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def test_first_published_files(tmp_path: Path) -> None:
    """No ``model.`` in front, a head beside the embedding that it is tied to, no keys of later features."""
    model = save_random_model(CONFIGS["odd head_dim"], tmp_path)

    def without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        head = {"lm_head.weight": renamed["decoder.embed_tokens.weight"]}
        return renamed | head | {"decoder.version": torch.tensor([3.0])}

    def without_later_keys(values: dict[str, Any]) -> None:
        for key in ("enable_bias", "layer_norm_elementwise_affine", "_remove_final_layer_norm", "tie_word_embeddings"):
            values.pop(key, None)

    edit_weights(tmp_path, without_prefix)
    edit_config(tmp_path, without_later_keys)
    ids = list(range(5, 30))
    torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_bfloat16(tmp_path: Path) -> None:
    save_random_model(CONFIGS["odd head_dim"], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
