"""T5 1.0 and 1.1 and mT5 against ``transformers``: gated and not, head tied and of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import check_family, save_random_model
from transformers import MT5Config, T5Config

from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 36,
    "d_kv": 10,
    "d_ff": 50,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}

CONFIGS = {
    "v1.0": T5Config(**SMALL),
    "v1.1": T5Config(**SMALL, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "gated silu": T5Config(**SMALL, feed_forward_proj="gated-silu"),
    "one layer": T5Config(**{**SMALL, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 1}),
    "mt5": MT5Config(**SMALL, feed_forward_proj="gated-gelu"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path, amplifies_rounding=True)


def test_a_head_of_its_own_is_used(tmp_path: Path) -> None:
    """flan-t5 and mT5 have a head that is not the embedding, whatever config.json says of tying."""
    model = save_random_model(CONFIGS["v1.1"], tmp_path)
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(97, 36)
    save_file(weights, tmp_path / "model.safetensors")
    runner, _ = build_runner(RunnerConfig(model_folder=tmp_path, device="cpu", max_batch_total_tokens=64))
    hidden = torch.randn(2, 36)
    assert torch.allclose(runner.model.compute_logits(hidden), hidden @ weights["lm_head.weight"].T, atol=1e-5)
    assert model.config.scale_decoder_outputs is False
