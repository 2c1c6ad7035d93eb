"""Speculation changes when tokens come, never which: every way of running against ``transformers``, with guesses."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_weights
from parity import check_family, save_random_model
from transformers import (
    BartConfig,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    M2M100Config,
    MistralConfig,
    Phi3Config,
    T5Config,
)

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
HALF = SMALL["hidden_size"] // SMALL["num_attention_heads"] // 2
CAUSAL = {
    "llama": LlamaConfig(**SMALL),
    "dynamic rope": LlamaConfig(
        **{**SMALL, "max_position_embeddings": 32},
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    ),
    "window": MistralConfig(**SMALL, sliding_window=11),
    "longrope": Phi3Config(
        **{**SMALL, "max_position_embeddings": 160},
        original_max_position_embeddings=64,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 500.0,
            "short_factor": [1.0 + 0.1 * i for i in range(HALF)],
            "long_factor": [1.5 + 2.0 * i for i in range(HALF)],
        },
    ),
    "alibi": BloomConfig(vocab_size=97, hidden_size=36, n_layer=2, n_head=6),
    "soft cap": Gemma2Config(**SMALL, head_dim=6, sliding_window=9, query_pre_attn_scalar=6),
    "learned positions": GPT2Config(vocab_size=97, n_embd=36, n_layer=2, n_head=3, n_positions=80),
    "packed fallback": CohereConfig(**SMALL, bos_token_id=1, eos_token_id=2, pad_token_id=0),
    "sequential fallback": GPTJConfig(vocab_size=97, n_embd=48, n_layer=2, n_head=4, rotary_dim=4, n_positions=128),
}
ENCODER_DECODERS = {
    "t5": T5Config(
        vocab_size=97, d_model=36, d_kv=10, d_ff=50, num_layers=2, num_heads=3, decoder_start_token_id=0,
        relative_attention_num_buckets=8, relative_attention_max_distance=20,
    ),
    "bart": BartConfig(**SEQ2SEQ),
    "encoder-decoder fallback": M2M100Config(**SEQ2SEQ),
}  # fmt: skip
CONFIGS = CAUSAL | ENCODER_DECODERS
NEVER_REPEATS = ("dynamic rope",)
"""Such a model's random weights say nothing twice."""


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in NEVER_REPEATS])
def test_S7_lookup_changes_nothing(name: str, tmp_path: Path) -> None:
    lens = (23, 1, 8, 65, 90) if name == "longrope" else (23, 1, 8)
    num_drafts, num_accepted = check_family(CONFIGS[name], tmp_path, speculate=5, prompt_lens=lens)
    assert num_drafts > num_accepted > 0


@pytest.mark.parametrize("name", ["llama", "dynamic rope", "longrope", "learned positions", "packed fallback"])
def test_S7_a_draft_model_changes_nothing(name: str, tmp_path: Path) -> None:
    lens = (23, 1, 8, 65, 90) if name == "longrope" else (23, 1, 8)
    num_drafts, num_accepted = check_family(CONFIGS[name], tmp_path, speculate=3, draft=similar, prompt_lens=lens)
    assert num_drafts > num_accepted > 100


@pytest.mark.parametrize("speculate", [1, 16])
def test_S7_a_draft_of_another_kind(speculate: int, tmp_path: Path) -> None:
    """It guesses badly, knows fewer positions and fewer ids."""

    def other(folder: Path) -> Path:
        save_random_model(GPT2Config(vocab_size=90, n_embd=12, n_layer=1, n_head=2, n_positions=20), folder / "draft")
        return folder / "draft"

    num_drafts, _ = check_family(CONFIGS["llama"], tmp_path, speculate=speculate, draft=other)
    assert num_drafts > 0


def similar(folder: Path) -> Path:
    """The model itself, a little off: right often, not always."""
    copy = folder / "draft"
    copy.mkdir()
    for path in folder.glob("*.*"):
        shutil.copy(path, copy)
    generator = torch.Generator().manual_seed(1)

    def blur(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: tensor + 0.1 * tensor.std() * torch.randn(tensor.shape, generator=generator)
            if tensor.dim() > 1
            else tensor
            for name, tensor in weights.items()
        }

    edit_weights(copy, blur)
    return copy
