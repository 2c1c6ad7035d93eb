"""BART against ``transformers``."""

from pathlib import Path
from typing import Any

import pytest
from parity import check_family
from transformers import BartConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 30,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 5,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 50,
    "decoder_ffn_dim": 44,
    "max_position_embeddings": 96,
    "forced_eos_token_id": None,
}

CONFIGS = {
    "plain": BartConfig(**SMALL),
    "scaled embedding": BartConfig(**SMALL, scale_embedding=True, activation_function="relu"),
    "same heads": BartConfig(**{**SMALL, "encoder_attention_heads": 3}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)
