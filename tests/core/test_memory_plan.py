"""The plan against what Segue's own runner would allocate."""

from typing import Any

import pytest
import torch

from segue.core.errors import ConfigError, UnsupportedModelError
from segue.core.memory_plan import (
    ModelDescription,
    kv_bytes_per_token,
    plan_memory,
    read_shape,
    weight_bytes,
)
from segue.models.config import HFConfig
from segue.models.registry import find_family
from segue.runner.kv_cache import bytes_per_block

GROUPED = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GROUPED | {"hidden_act": "silu"},
    "gemma": GROUPED | {"head_dim": 20, "hidden_activation": "gelu_pytorch_tanh"},
    "qwen3": GROUPED | {"head_dim": 12, "hidden_act": "silu"},
    "gpt2": {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 40, "layer_norm_epsilon": 1e-5},
    "bloom": {"vocab_size": 97, "hidden_size": 48, "n_layer": 3, "n_head": 6, "layer_norm_epsilon": 1e-5},
    "falcon": {
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "multi_query": True,
        "layer_norm_epsilon": 1e-5,
    },
    "t5": {
        "vocab_size": 97,
        "d_model": 40,
        "d_kv": 12,
        "d_ff": 72,
        "num_heads": 3,
        "num_layers": 2,
        "num_decoder_layers": 4,
        "decoder_start_token_id": 0,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "is_encoder_decoder": True,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
    },
}


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_kv_cache_as_the_runner_allocates_it(model_type: str, dtype: str) -> None:
    config = {"model_type": model_type, "dtype": dtype, **CONFIGS[model_type]}
    family = find_family(HFConfig(config))
    assert family is not None
    with torch.device("meta"):
        model = family(HFConfig(config))
    expected = bytes_per_block(model.kv_layers, 1, getattr(torch, dtype))
    assert kv_bytes_per_token(read_shape(config)) == expected


LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


def _described(**changes: Any) -> ModelDescription:
    return ModelDescription(model_id="meta/llama", config=LLAMA_8B | changes)


def test_weights() -> None:
    assert weight_bytes(_described()) == 2 * 8_030_261_248
    assert weight_bytes(_described(torch_dtype="float32")) == 4 * 8_030_261_248
    stated = ModelDescription(model_id="x", config=LLAMA_8B, num_parameters=1000)
    assert weight_bytes(stated) == 2000


@pytest.mark.parametrize(
    ("quantization", "gigabytes"),
    [
        # Published checkpoints: 5.7 GB of files in four bits, 9.1 GB in FP8 (embeddings in 16 bits in both).
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 5.7),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 5.7),
        ({"quant_method": "fp8"}, 9.1),
    ],
)
def test_quantized_weights(quantization: dict[str, Any], gigabytes: float) -> None:
    assert weight_bytes(_described(quantization_config=quantization)) / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_bits_of_compressed_tensors() -> None:
    groups = {"group_0": {"weights": {"num_bits": 8}}}
    plan = {"quant_method": "compressed-tensors", "config_groups": groups}
    assert weight_bytes(_described(quantization_config=plan)) / 1e9 == pytest.approx(9.1, rel=0.03)


def test_heads_are_shared_then_repeated() -> None:
    shape = read_shape(LLAMA_8B)
    assert kv_bytes_per_token(shape, 1) == 2 * 32 * 8 * 128 * 2
    assert kv_bytes_per_token(shape, 8) == kv_bytes_per_token(shape, 1) // 8
    assert kv_bytes_per_token(shape, 16) == kv_bytes_per_token(shape, 8)


def test_plan_adds_up() -> None:
    plan = plan_memory(_described(), gpu_bytes=24e9, num_gpus=1, prefill_tokens=4096)
    assert plan.weights + plan.runtime + plan.activations + plan.kv_tokens * plan.kv_per_token <= 24e9
    assert plan.kv_tokens > 8192
    too_small = plan_memory(_described(), gpu_bytes=16e9, num_gpus=1, prefill_tokens=4096)
    assert too_small.kv_tokens == 0
    assert too_small.kv_budget < 0


def test_longer_steps_take_more_memory() -> None:
    plans = [plan_memory(_described(), gpu_bytes=24e9, num_gpus=1, prefill_tokens=n) for n in (512, 4096)]
    assert plans[0].kv_tokens > plans[1].kv_tokens


def test_text_part_of_a_larger_model() -> None:
    assert read_shape({"model_type": "gemma3", "text_config": LLAMA_8B}) == read_shape(LLAMA_8B)
    with pytest.raises(UnsupportedModelError):
        weight_bytes(ModelDescription(model_id="x", config={"model_type": "gemma3", "text_config": LLAMA_8B}))


def test_missing_size() -> None:
    with pytest.raises(ConfigError, match="no 'hidden_size'"):
        read_shape({"model_type": "llama"})
