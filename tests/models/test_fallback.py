"""Models that are not written here run through ``transformers`` on the same scheduler and cache."""

from pathlib import Path
from typing import Any

import pytest
from parity import check_family, save_random_model
from transformers import (
    CodeGenConfig,
    CohereConfig,
    GPTJConfig,
    M2M100Config,
    MambaConfig,
    MBartConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    PegasusConfig,
    PhiConfig,
    StableLmConfig,
    Starcoder2Config,
)

from segue.core.errors import UnsupportedModelError
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPTJ: dict[str, Any] = {"vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128}
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

CONFIGS = {
    "cohere": CohereConfig(**SMALL),
    "mixtral": MixtralConfig(
        **{**SMALL, "hidden_size": 48, "intermediate_size": 64}, num_local_experts=3, num_experts_per_tok=2
    ),
    "olmo2": Olmo2Config(**SMALL),
    "phi": PhiConfig(**{**SMALL, "hidden_size": 48}, partial_rotary_factor=0.5),
    "stablelm": StableLmConfig(**SMALL),
    "starcoder2 window": Starcoder2Config(**SMALL, sliding_window=9),
    "gptj": GPTJConfig(**GPTJ),
    "codegen": CodeGenConfig(**GPTJ),
    "mpt": MptConfig(d_model=24, n_heads=3, n_layers=2, vocab_size=97, max_seq_len=128),
    "m2m100": M2M100Config(**SEQ2SEQ),
    "mbart": MBartConfig(**SEQ2SEQ),
    "pegasus": PegasusConfig(**SEQ2SEQ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_transformers(name: str, tmp_path: Path) -> None:
    check_family(CONFIGS[name], tmp_path)


def test_a_recurrent_model_is_refused(tmp_path: Path) -> None:
    save_random_model(MambaConfig(vocab_size=97, hidden_size=24, num_hidden_layers=2, state_size=4), tmp_path)
    with pytest.raises(UnsupportedModelError, match="recurrent state"):
        build_runner(RunnerConfig(model_folder=tmp_path, device="cpu", max_batch_total_tokens=64))


def test_an_unknown_model_type_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(UnsupportedModelError, match="Unsupported model type no-such-model"):
        build_runner(RunnerConfig(model_folder=tmp_path, device="cpu", max_batch_total_tokens=64))
