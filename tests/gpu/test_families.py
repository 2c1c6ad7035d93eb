"""The same proof as on CPU, on a CUDA device with the plain PyTorch operators."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import check_family
from transformers import BartConfig, BloomConfig, Gemma2Config, LlamaConfig, OPTConfig, T5Config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(
        vocab_size=97,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
    ),
    "opt": OPTConfig(
        vocab_size=97, hidden_size=30, ffn_dim=50, num_hidden_layers=2, num_attention_heads=3, word_embed_proj_dim=30
    ),
    "bloom": BloomConfig(vocab_size=97, hidden_size=30, n_layer=2, n_head=3),
    "gemma2": Gemma2Config(
        vocab_size=97,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        sliding_window=9,
        max_position_embeddings=128,
    ),
    "t5": T5Config(vocab_size=97, d_model=36, d_kv=10, d_ff=50, num_layers=3, num_heads=3, decoder_start_token_id=0),
    "bart": BartConfig(
        vocab_size=97,
        d_model=30,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=3,
        decoder_attention_heads=3,
        encoder_ffn_dim=50,
        decoder_ffn_dim=50,
        max_position_embeddings=96,
        forced_eos_token_id=None,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path, device="cuda")
