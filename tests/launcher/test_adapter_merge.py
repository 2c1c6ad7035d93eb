"""An adapter in PEFT's format merged into its base: W' = W + scale · B A, written out by hand here."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segue.core.errors import ConfigError
from segue.launcher.adapter_merge import merge_adapter

Q = "model.layers.0.self_attn.q_proj"
RANK, ALPHA = 2, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


BASE = {
    f"{Q}.weight": random(6, 4),
    f"{Q}.bias": random(6),
    "model.embed_tokens.weight": random(10, 4),
    "model.norm.weight": random(4),
}
A, B = random(RANK, 4, seed=1), random(6, RANK, seed=2)
LORA = {f"base_model.model.{Q}.lora_A.weight": A, f"base_model.model.{Q}.lora_B.weight": B}


def write_base(folder: Path, tensors: dict[str, Tensor] = BASE, **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 10} | config))
    (folder / "tokenizer.json").write_text("the base's")
    (folder / "generation_config.json").write_text("{}")
    return folder


def write_adapter(folder: Path, tensors: dict[str, Tensor] = LORA, **config: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "base_model_name_or_path": "some/base"} | config
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merge(tmp_path: Path, tensors: dict[str, Tensor] = LORA, base: dict[str, Tensor] = BASE, **config: Any) -> Any:
    """(the merged tensors, the merged config.json)"""
    output = tmp_path / "merged"
    merge_adapter(write_adapter(tmp_path / "adapter", tensors, **config), write_base(tmp_path / "base", base), output)
    return load_file(output / "model.safetensors"), json.loads((output / "config.json").read_text())


def test_F7_the_change_is_added(tmp_path: Path) -> None:
    merged, config = merge(tmp_path)
    torch.testing.assert_close(merged[f"{Q}.weight"], BASE[f"{Q}.weight"] + ALPHA / RANK * (B @ A))
    assert all(torch.equal(merged[name], BASE[name]) for name in BASE if name != f"{Q}.weight")
    assert config == {"model_type": "llama", "vocab_size": 10}
    assert (tmp_path / "merged" / "tokenizer.json").read_text() == "the base's"
    assert (tmp_path / "merged" / "generation_config.json").is_file()


def test_F7_the_bases_type_is_kept(tmp_path: Path) -> None:
    merged, _ = merge(tmp_path, base={name: tensor.bfloat16() for name, tensor in BASE.items()})
    expected = BASE[f"{Q}.weight"].bfloat16().float() + ALPHA / RANK * (B @ A)
    assert torch.equal(merged[f"{Q}.weight"], expected.bfloat16())


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"use_rslora": True}, ALPHA / RANK**0.5),
        ({"alpha_pattern": {"q_proj": 3}}, 3 / RANK),
        ({"alpha_pattern": {"k_proj": 3}}, ALPHA / RANK),
        ({"alpha_pattern": {r"layers\.0\..*q_proj": 5}, "use_rslora": True}, 5 / RANK**0.5),
    ],
)
def test_F7_scales(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    merged, _ = merge(tmp_path, **config)
    torch.testing.assert_close(merged[f"{Q}.weight"], BASE[f"{Q}.weight"] + scale * (B @ A))


def test_F7_fan_in_fan_out(tmp_path: Path) -> None:
    """GPT-2 stores its weights transposed, and leaves ``transformer.`` out of their names."""
    base = {"h.0.attn.c_attn.weight": random(4, 6)}
    lora = {name.replace(Q, "transformer.h.0.attn.c_attn"): tensor for name, tensor in LORA.items()}
    merged, _ = merge(tmp_path, lora, base, fan_in_fan_out=True)
    torch.testing.assert_close(
        merged["h.0.attn.c_attn.weight"], base["h.0.attn.c_attn.weight"] + ALPHA / RANK * (B @ A).T
    )


def test_F7_embeddings(tmp_path: Path) -> None:
    down, up = random(RANK, 10), random(4, RANK)
    prefix = "base_model.model.model.embed_tokens.lora_embedding_"
    merged, _ = merge(tmp_path, {prefix + "A": down, prefix + "B": up})
    expected = BASE["model.embed_tokens.weight"] + ALPHA / RANK * (up @ down).T
    torch.testing.assert_close(merged["model.embed_tokens.weight"], expected)


def test_F7_modules_to_save(tmp_path: Path) -> None:
    """Two tokens were added; the head is no longer the embeddings."""
    saved = {
        "base_model.model.model.embed_tokens.weight": random(12, 4),
        "base_model.model.lm_head.modules_to_save.default.weight": random(12, 4, seed=3),
    }
    merged, config = merge(tmp_path, LORA | saved)
    assert torch.equal(merged["model.embed_tokens.weight"], saved["base_model.model.model.embed_tokens.weight"])
    assert torch.equal(merged["lm_head.weight"], saved["base_model.model.lm_head.modules_to_save.default.weight"])
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (12, False)


def test_F7_biases(tmp_path: Path) -> None:
    bias = random(6, seed=5)
    merged, _ = merge(tmp_path, LORA | {f"base_model.model.{Q}.base_layer.bias": bias}, bias="lora_only")
    assert torch.equal(merged[f"{Q}.bias"], bias)


def test_F7_the_adapters_tokenizer_goes_first(tmp_path: Path) -> None:
    adapter, base = write_adapter(tmp_path / "adapter"), write_base(tmp_path / "base")
    (base / "vocab.json").write_text("the base's")
    (adapter / "tokenizer.json").write_text("the adapter's")
    (adapter / "tokenizer_config.json").write_text("{}")
    merge_adapter(adapter, base, tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenizer.json").read_text() == "the adapter's"
    assert not (tmp_path / "merged" / "vocab.json").exists()
    assert not (tmp_path / "merged" / "adapter_config.json").exists()


def test_F7_files_of_a_large_base(tmp_path: Path) -> None:
    adapter, base = write_adapter(tmp_path / "adapter"), write_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    for i, name in enumerate(BASE, start=1):
        save_file({name: BASE[name]}, base / f"model-0000{i}-of-00004.safetensors")
    progress: list[tuple[int, int]] = []
    merge_adapter(adapter, base, tmp_path / "merged", lambda done, total: progress.append((done, total)))
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == BASE.keys()
    first = load_file(tmp_path / "merged" / "model-00001-of-00004.safetensors")[f"{Q}.weight"]
    torch.testing.assert_close(first, BASE[f"{Q}.weight"] + ALPHA / RANK * (B @ A))
    assert len(progress) == 4
    assert progress[-1][0] == progress[-1][1]


def test_F7_pytorchs_format(tmp_path: Path) -> None:
    adapter, base = write_adapter(tmp_path / "adapter"), write_base(tmp_path / "base")
    (adapter / "adapter_model.safetensors").unlink()
    (base / "model.safetensors").unlink()
    torch.save(LORA, adapter / "adapter_model.bin")
    torch.save(BASE, base / "pytorch_model.bin")
    merge_adapter(adapter, base, tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    torch.testing.assert_close(merged[f"{Q}.weight"], BASE[f"{Q}.weight"] + ALPHA / RANK * (B @ A))


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (LORA, {"peft_type": "IA3"}, "an adapter of type IA3; only LoRA can be merged"),
        (LORA, {"use_dora": True}, "uses DoRA"),
        ({f"base_model.model.{Q}.lora_A.weight": A}, {}, "half of the change"),
        ({name.replace("q_proj", "x_proj"): tensor for name, tensor in LORA.items()}, {}, "another base model"),
        (LORA, {"fan_in_fan_out": True}, r"is \[4, 6\], the base's weight \[6, 4\]"),
    ],
)
def test_F7_adapters_that_cannot_be_merged(
    tmp_path: Path, tensors: dict[str, Tensor], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        merge(tmp_path, tensors, **config)


def test_F7_a_quantized_base(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ConfigError, match="is quantized: an adapter cannot be merged"):
        merge_adapter(write_adapter(tmp_path / "adapter"), base, tmp_path / "merged")
