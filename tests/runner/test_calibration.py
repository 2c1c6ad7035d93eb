"""``calibrate_checkpoint``: what it writes is what its codes stand for, in every causal family."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from checkpoints import hf_logits, logits
from parity import save_random_model
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from segue.core.errors import ConfigError
from segue.models.quantized_checkpoint import quantize_checkpoint
from segue.quantization.calibration import GPTQOptions
from segue.quantization.gptq import GPTQ
from segue.quantization.methods import method_named
from segue.runner.calibration import calibrate_checkpoint

SIZES = {"vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA_SIZES = {**SIZES, "intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 128}
FAMILIES: dict[str, transformers.PreTrainedConfig] = {
    "llama": transformers.LlamaConfig(**LLAMA_SIZES),
    "qwen2": transformers.Qwen2Config(**LLAMA_SIZES),
    "gemma2": transformers.Gemma2Config(**LLAMA_SIZES, head_dim=16, sliding_window=16),
    "phi3": transformers.Phi3Config(**LLAMA_SIZES, pad_token_id=0),
    "gpt2": transformers.GPT2Config(vocab_size=97, n_embd=64, n_layer=2, n_head=4, n_positions=128),
    "gpt_neo": transformers.GPTNeoConfig(
        vocab_size=97, hidden_size=64, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        max_position_embeddings=128,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**SIZES, intermediate_size=128, max_position_embeddings=128),
    "opt": transformers.OPTConfig(
        **SIZES, ffn_dim=128, max_position_embeddings=128, word_embed_proj_dim=32, do_layer_norm_before=True
    ),
    "bloom": transformers.BloomConfig(vocab_size=97, hidden_size=64, n_layer=2, n_head=4),
    "falcon": transformers.FalconConfig(**SIZES, new_decoder_architecture=True, num_kv_heads=2, alibi=False),
}  # fmt: skip
IDS = [5, 9, 2, 33, 70, 8]


def _windows(count: int = 12, length: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 97, (count, length), generator=generator).tolist()


def _dequantize(model: nn.Module, output: Path, options: GPTQOptions) -> set[str]:
    """Give ``model`` what the codes of ``output`` stand for; the names of the modules that have codes."""
    tensors, names = load_file(output / "model.safetensors"), set()
    reader = GPTQ.from_config(options.config(), None)
    for name, module in model.named_modules():
        stored = name if f"{name}.qweight" in tensors else name.split(".", 1)[-1]
        if f"{stored}.qweight" not in tensors:
            continue
        assert isinstance(module, nn.Linear | Conv1D)
        leaves = {leaf: tensors[f"{stored}.{leaf}"] for leaf in GPTQ.leaves}
        weight = reader.read(stored, leaves).dequantize()
        module.weight.data = weight.t().contiguous() if isinstance(module, Conv1D) else weight
        names.add(name)
    return names


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_model_is_that_of_the_codes(family: str, act_order: bool, tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    model = save_random_model(FAMILIES[family], source)
    options = GPTQOptions(group=32, act_order=act_order)
    calibrate_checkpoint(source, output, _windows(), options)
    names = _dequantize(model, output, options)
    in_blocks = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and any(part.isdigit() for part in name.split("."))
    }
    assert names == in_blocks
    torch.testing.assert_close(logits(output, IDS, quantize="gptq"), hf_logits(model, IDS), atol=3e-4, rtol=1e-3)


@pytest.mark.parametrize("options", [GPTQOptions(group=-1), GPTQOptions(bits=8), GPTQOptions(group=-1, act_order=True)])
def test_other_layouts(options: GPTQOptions, tmp_path: Path) -> None:
    """A group of 128 is more than the 64 or 96 inputs that there are."""
    source, output = tmp_path / "source", tmp_path / "output"
    model = save_random_model(FAMILIES["llama"], source)
    calibrate_checkpoint(source, output, _windows(), options)
    assert _dequantize(model, output, options)
    torch.testing.assert_close(logits(output, IDS), hf_logits(model, IDS), atol=3e-4, rtol=1e-3)


def test_closer_than_rounding_to_nearest(tmp_path: Path) -> None:
    """Logits on the calibration text, both with float activations and heads."""
    source = tmp_path / "source"
    save_random_model(FAMILIES["llama"], source)
    windows = _windows()
    calibrate_checkpoint(source, tmp_path / "gptq", windows, GPTQOptions(group=32))
    quantize_checkpoint(source, tmp_path / "int4", method_named("int4", int8_activations=False, group=32))
    errors = {
        name: sum(float((logits(tmp_path / name, ids) - logits(source, ids)).square().sum()) for ids in windows[:4])
        for name in ("gptq", "int4")
    }
    assert errors["gptq"] < 0.9 * errors["int4"], errors


def test_layout_config_and_progress(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    save_random_model(FAMILIES["llama"], source)
    told: list[tuple[int, int]] = []
    calibrate_checkpoint(
        source, output, _windows(), GPTQOptions(group=32), progress=lambda done, total: told.append((done, total))
    )
    assert told == [(done, 8) for done in range(1, 9)]
    tensors = load_file(output / "model.safetensors")
    prefix = "model.layers.1.self_attn.k_proj"
    shapes = {leaf: tuple(tensors[f"{prefix}.{leaf}"].shape) for leaf in GPTQ.leaves}
    assert shapes == {"qweight": (8, 32), "qzeros": (2, 4), "scales": (2, 32), "g_idx": (64,)}
    assert set(tensors[f"{prefix}.qzeros"].flatten().tolist()) == {0x77777777}
    assert tensors["lm_head.weight"].dtype == torch.float32
    config = json.loads((output / "config.json").read_text("utf-8"))["quantization_config"]
    expected = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    assert expected.items() <= config.items()
    separate = json.loads((output / "quantize_config.json").read_text("utf-8"))
    assert separate == config


def test_what_does_not_fill_words_stays_in_floats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    model = save_random_model(transformers.LlamaConfig(**{**LLAMA_SIZES, "intermediate_size": 100}), source)
    options = GPTQOptions(group=32)
    calibrate_checkpoint(source, output, _windows(), options)
    assert not [name for name in _dequantize(model, output, options) if "mlp" in name]
    assert "model.layers.0.mlp.down_proj: inputs or outputs do not fill words" in caplog.text
    torch.testing.assert_close(logits(output, IDS), hf_logits(model, IDS), atol=3e-4, rtol=1e-3)


def test_refusals(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    save_random_model(FAMILIES["llama"], source)
    with pytest.raises(ConfigError, match="this one is empty"):
        calibrate_checkpoint(source, output, [], GPTQOptions())
    calibrate_checkpoint(source, output, _windows(), GPTQOptions())
    with pytest.raises(ConfigError, match="is quantized already"):
        calibrate_checkpoint(output, tmp_path / "again", _windows(), GPTQOptions())
    with pytest.raises(ConfigError, match="is not empty"):
        calibrate_checkpoint(source, output, _windows(), GPTQOptions())
