"""``--kv-cache-dtype``: the pool's memory, and what is served from a pool of fewer bits."""

import json
import random
from pathlib import Path

import pytest
import torch
from parity import BLOCK_SIZE, Served, save_random_model
from transformers import LlamaConfig, T5Config

from segue.core.errors import ConfigError
from segue.kernels.scaled_cache import ScaledCache
from segue.layers.attention import KVLayerSpec
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig
from segue.runner.kv_cache import allocate, bytes_per_block, cache_dtype

CPU = torch.device("cpu")
CAUSAL = LlamaConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
SEQ2SEQ = T5Config(
    vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0
)
ERRORS = {"float32": 1e-4, "bfloat16": 0.03, "float16": 0.004, "int8": 0.05}
"""Of logits, relative to their spread: some units of the dtype's last place."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_a_block_takes_what_is_counted(dtype: torch.dtype) -> None:
    layers = [KVLayerSpec(3, 16, 24), KVLayerSpec(1, 8, 8)]
    taken = 0
    for cache in (cache for pair in allocate(layers, 5, BLOCK_SIZE, dtype, CPU) for cache in pair):
        parts = [cache.codes, cache.scales] if isinstance(cache, ScaledCache) else [cache]
        assert (cache.dtype, cache.shape[:2]) == (dtype, (5, BLOCK_SIZE))
        assert not any(part.any() for part in parts)
        taken += sum(part.nbytes for part in parts)
    assert taken == 5 * bytes_per_block(layers, BLOCK_SIZE, dtype)


def test_names() -> None:
    assert cache_dtype("auto", torch.bfloat16, CPU) == torch.bfloat16
    assert cache_dtype("int8", torch.float32, CPU) == torch.int8
    with pytest.raises(ConfigError, match="use auto or one of float32"):
        cache_dtype("int3", torch.float32, CPU)
    with pytest.raises(ConfigError, match="is for CPU"):
        cache_dtype("int8", torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_quantized_weights_cache_in_the_checkpoints_16_bits(stored: torch.dtype, tmp_path: Path) -> None:
    save_random_model(CAUSAL, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["dtype"] = str(stored).removeprefix("torch.")
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")

    def dtypes(**options: str) -> set[torch.dtype]:
        runner, _ = build_runner(
            RunnerConfig(model_folder=tmp_path, device="cpu", max_batch_total_tokens=64, weight_cache=None, **options)
        )
        return {cache.dtype for pair in runner.kv_caches for cache in pair}

    assert dtypes() == {torch.float32}
    assert dtypes(quantize="int8") == {stored}
    assert dtypes(quantize="int8", dtype="float32") == {torch.float32}
    assert dtypes(quantize="int8", kv_cache_dtype="int8") == {torch.int8}


@pytest.mark.parametrize("dtype", ERRORS)
@pytest.mark.parametrize("config", [CAUSAL, SEQ2SEQ], ids=["causal", "encoder-decoder"])
def test_logits_are_those_of_a_float32_pool_within_rounding(config: LlamaConfig, dtype: str, tmp_path: Path) -> None:
    save_random_model(config, tmp_path, gain=0.7)
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 97) for _ in range(n)] for n in (50, 9, 1)]

    def first_logits(name: str) -> torch.Tensor:
        served = Served(tmp_path, kv_cache_dtype=name)
        assert served.recorder.runner.kv_caches[0][0].dtype == cache_dtype(name, torch.float32, CPU)
        rows = []
        for prompt in prompts:
            served.recorder.logits.clear()
            served.generate([prompt], [2])
            rows.append(torch.stack([row for position in served.recorder.logits.values() for row in position])[:1])
            assert served.generate([prompt], [2]) == served.generate([prompt], [2])
        assert served.num_cached_tokens > 0, "the second time finds blocks of the first"
        return torch.cat(rows)

    exact = first_logits("auto")
    error = (first_logits(dtype) - exact).abs().max() / exact.std()
    assert error < ERRORS[dtype]
    assert (error > 0) == (dtype != "float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_warm_prefix_and_chunks_give_the_same_tokens(dtype: str, tmp_path: Path) -> None:
    save_random_model(CAUSAL, tmp_path)
    prompt = [random.Random(1).randrange(3, 97) for _ in range(61)]
    cold = Served(tmp_path, kv_cache_dtype=dtype)
    expected = cold.generate([prompt], [20])
    assert cold.generate([prompt], [20]) == expected
    assert cold.num_cached_tokens == 60
    assert Served(tmp_path, kv_cache_dtype=dtype, budget=7).generate([prompt], [20]) == expected
