"""What ``build_runner`` settles: rope overrides, dtype, device, the size of the pool."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_config
from parity import Served, recorded, save_random_model
from transformers import Gemma3TextConfig, GPTNeoXConfig, LlamaConfig

from segue.core.errors import ConfigError
from segue.kernels import cpu
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
CONFIG = LlamaConfig(**SMALL)


def _config(folder: Path, **changes: Any) -> RunnerConfig:
    return dataclasses.replace(RunnerConfig(model_folder=folder, device="cpu", max_batch_total_tokens=256), **changes)


@pytest.mark.parametrize(
    ("config", "rope"),
    [
        (CONFIG, {"rope_theta": 10000.0}),
        (GPTNeoXConfig(**SMALL, rotary_pct=0.5), {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        (
            Gemma3TextConfig(**SMALL, head_dim=8, num_key_value_heads=2, sliding_window=9),
            {"full_attention": {"rope_theta": 1000000.0}, "sliding_attention": {"rope_theta": 10000.0}},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_rope_flags_take_the_place_of_the_configs_scaling(config: Any, rope: dict[str, Any], tmp_path: Path) -> None:
    """Theta, the rotated share and the split by layer stay as the checkpoint has them."""
    save_random_model(config, tmp_path)
    prompt = list(range(3, 40))
    plain = Served(tmp_path).generate([prompt])
    edit_config(tmp_path, lambda values: values.update(rope_parameters=rope))
    assert Served(tmp_path).generate([prompt]) == plain, "the rope written here is the checkpoint's own"

    by_flags = build_runner(_config(tmp_path, rope_scaling="linear", rope_factor=4.0))[0].model
    linear = {"rope_type": "linear", "factor": 4.0}
    nested = all(isinstance(value, dict) for value in rope.values())
    scaled = {key: {**value, **linear} for key, value in rope.items()} if nested else {**rope, **linear}
    edit_config(tmp_path, lambda values: values.update(rope_parameters=scaled))
    by_config = build_runner(_config(tmp_path))[0].model
    assert _rotations(by_flags) == _rotations(by_config)
    assert _rotations(by_flags), "the model has no rotary module to compare"


def _rotations(model: Any) -> list[Any]:
    """The rope settings of every rotary module."""
    return [module.params for module in recorded(model).modules() if type(module).__name__ == "Rotary"]


def test_the_default_dtype_on_cpu_is_float32(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    edit_config(tmp_path, lambda values: values.update(dtype="bfloat16"))
    runner, facts = build_runner(_config(tmp_path))
    assert facts.dtype == "float32"
    assert runner.kv_caches[0][0].dtype == torch.float32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(dtype: str, tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    _, facts = build_runner(_config(tmp_path, dtype=dtype))
    assert facts.dtype == dtype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
        ({"max_batch_total_tokens": 10**12}, "Not enough memory to handle `max_batch_total_tokens="),
    ],
)
def test_what_cannot_work_is_said(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    with pytest.raises(ConfigError, match=message):
        build_runner(_config(tmp_path, **changes))


def test_the_pool_is_no_larger_than_a_full_batch_can_use(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    config = _config(tmp_path, max_batch_total_tokens=None, max_batch_size=2, block_size=16)
    _, facts = build_runner(config)
    assert facts.num_blocks == 2 * 128 // 16


@pytest.mark.skipif(not cpu.is_available(), reason="without native kernels PyTorch may need more")
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_start_imports_nothing_that_it_does_not_need(quantize: str | None, tmp_path: Path) -> None:
    """sympy came with an operator of PyTorch that is Python inside, 0.3 s of every start."""
    save_random_model(CONFIG, tmp_path)
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from segue.runner.build import build_runner\nfrom segue.runner.config import RunnerConfig\n"
        f"build_runner(RunnerConfig(model_folder=Path({str(tmp_path)!r}), device='cpu', quantize={quantize!r}, "
        "max_batch_total_tokens=256))\n"
        "print(sorted({'sympy', 'transformers', 'torch._dynamo', 'huggingface_hub'} & {*sys.modules}))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.splitlines()[-1] == "[]"
