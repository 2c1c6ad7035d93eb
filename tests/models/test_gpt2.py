"""GPT-2 against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_runs_in_bfloat16, edit_weights, hf_logits, logits
from parity import check_family, save_random_model
from transformers import GPT2Config

SMALL: dict[str, Any] = {"vocab_size": 97, "n_embd": 36, "n_layer": 3, "n_head": 4, "n_positions": 128}

CONFIGS = {
    "odd head_dim": GPT2Config(**SMALL),
    "untied": GPT2Config(**SMALL, tie_word_embeddings=False),
    "unscaled": GPT2Config(**SMALL, scale_attn_weights=False),
    "scaled by layer": GPT2Config(**SMALL, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    "other MLP": GPT2Config(**SMALL, n_inner=50, activation_function="relu", layer_norm_epsilon=1e-3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def test_checkpoint_saved_from_the_inner_model_with_masks(tmp_path: Path) -> None:
    """The files of "gpt2" itself: no ``transformer.`` in front, and the causal mask beside the weights."""
    model = save_random_model(CONFIGS["odd head_dim"], tmp_path)

    def as_first_published(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 128, 128).tril() for i in range(3)}
        masks |= {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(3)}
        return masks | {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}

    edit_weights(tmp_path, as_first_published)
    ids = list(range(5, 30))
    torch.testing.assert_close(logits(tmp_path, ids), hf_logits(model, ids), atol=1e-4, rtol=0)


def test_bfloat16(tmp_path: Path) -> None:
    save_random_model(CONFIGS["odd head_dim"], tmp_path)
    assert_runs_in_bfloat16(tmp_path)
