"""``quantize_checkpoint``: what it writes runs as the rounded weights do, and other readers find their way."""

import json
from pathlib import Path

import pytest
import small_models as small
import torch
from checkpoints import hf_logits, logits
from parity import save_random_model
from safetensors.torch import load_file
from transformers import GPTNeoXConfig, LlamaConfig, PreTrainedConfig

from segue.core.errors import ConfigError
from segue.models.quantized_checkpoint import quantize_checkpoint
from segue.quantization.methods import method_named

LLAMA = LlamaConfig(**{**small.LLAMA.to_dict(), "intermediate_size": 100})
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LLAMA,
    "tied llama": LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True}),
    "gpt2": small.FAMILIES["gpt2"],
    "gpt_neox": GPTNeoXConfig(
        vocab_size=97, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("int8_activations", [False, True])
@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_is_written_is_the_rounded_model(family: str, name: str, int8_activations: bool, tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    model = save_random_model(FAMILIES[family], source)
    method = method_named(name, int8_activations=int8_activations)
    quantize_checkpoint(source, output, method)
    small.round_linears(model, method.of_layer, method.of_head)
    expected = hf_logits(model, small.IDS)
    exact = logits(output, small.IDS, int8_activations=False)
    torch.testing.assert_close(exact, expected, atol=2e-4, rtol=1e-3)
    found = logits(output, small.IDS)
    if int8_activations:
        assert (found - expected).norm() < 0.05 * expected.norm()
    else:
        assert torch.equal(found, exact)


def test_layout_and_config(tmp_path: Path) -> None:
    """Widths of 64 get int4; down_proj with its 100 inputs and the head have 8 bits, and are named."""
    source, output = tmp_path / "source", tmp_path / "output"
    save_random_model(LLAMA, source)
    (source / "tokenizer.json").write_text("{}")
    quantize_checkpoint(source, output, method_named("int4"))
    assert (output / "tokenizer.json").read_text() == "{}"
    config = json.loads((output / "config.json").read_text())
    assert config["hidden_size"] == 64
    quantization = config["quantization_config"]
    assert (quantization["quant_method"], quantization["format"]) == ("compressed-tensors", "mixed-precision")
    first, second = quantization["config_groups"].values()
    assert (first["targets"], first["weights"]["num_bits"], first["weights"]["group_size"]) == (["Linear"], 4, 64)
    downs = [f"model.layers.{i}.mlp.down_proj" for i in range(2)]
    assert sorted(second["targets"]) == sorted(["lm_head", *downs])
    assert (second["weights"]["num_bits"], second["weights"]["strategy"]) == (8, "channel")
    assert first["input_activations"] == second["input_activations"] != None  # noqa: E711 - both, and there
    tensors = load_file(output / "model.safetensors")
    assert tensors["model.layers.0.self_attn.q_proj.weight_packed"].shape == (64, 8)
    assert tensors["model.layers.0.self_attn.q_proj.weight_scale"].shape == (64, 1)
    assert tensors["lm_head.weight"].dtype == torch.int8
    assert tensors["model.embed_tokens.weight"].dtype == torch.float32
    assert (output / "model.safetensors").stat().st_mode & 0o044 == 0o044


def test_a_tied_head_stays_with_the_embeddings(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    save_random_model(FAMILIES["tied llama"], source)
    quantize_checkpoint(source, output, method_named("int8"))
    assert not [name for name in load_file(output / "model.safetensors") if name.startswith("lm_head")]
    quantization = json.loads((output / "config.json").read_text())["quantization_config"]
    assert quantization["ignore"] == ["lm_head"]


def test_files_of_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    save_random_model(LLAMA, source)
    monkeypatch.setattr("segue.models.quantized_checkpoint.MAX_FILE_BYTES", 20_000)
    told: list[tuple[int, int]] = []
    quantize_checkpoint(source, output, method_named("int8"), lambda done, total: told.append((done, total)))
    files = sorted(output.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert told[-1][0] <= told[-1][1]
    monkeypatch.undo()
    whole = tmp_path / "whole"
    quantize_checkpoint(source, whole, method_named("int8"))
    assert torch.equal(logits(output, small.IDS), logits(whole, small.IDS))


def test_refusals(tmp_path: Path) -> None:
    source, output = tmp_path / "source", tmp_path / "output"
    save_random_model(LLAMA, source)
    quantize_checkpoint(source, output, method_named("int8"))
    with pytest.raises(ConfigError, match="is quantized already"):
        quantize_checkpoint(output, tmp_path / "again", method_named("int8"))
    with pytest.raises(ConfigError, match="is not empty"):
        quantize_checkpoint(source, output, method_named("int8"))
