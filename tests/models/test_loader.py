"""Checkpoints as they come: sharded, ``.bin``, damaged, incomplete."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_weights, hf_logits, loaded, logits, logits_of
from parity import save_random_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from segue.core.errors import ConfigError
from segue.models.weight_files import copied, weight_files

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=36,
    intermediate_size=50,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
IDS = [5, 9, 2, 33, 70]


def _halves(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    middle = len(names) // 2
    return {n: tensors[n] for n in names[:middle]}, {n: tensors[n] for n in names[middle:]}


def _write_index(folder: Path, pattern: str, halves: tuple[dict[str, torch.Tensor], ...]) -> None:
    weight_map = {name: pattern.format(i) for i, half in enumerate(halves) for name in half}
    index = "model.safetensors.index.json" if pattern.endswith("safetensors") else "pytorch_model.bin.index.json"
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))


def test_sharded_safetensors(tmp_path: Path) -> None:
    model = save_random_model(CONFIG, tmp_path)
    halves = _halves(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for i, half in enumerate(halves):
        save_file(half, tmp_path / f"part-{i}.safetensors")
    _write_index(tmp_path, "part-{}.safetensors", halves)
    assert torch.allclose(logits(tmp_path, IDS), hf_logits(model, IDS), atol=1e-4)


@pytest.mark.parametrize("sharded", [False, True])
def test_pytorch_bin(sharded: bool, tmp_path: Path) -> None:
    model = save_random_model(CONFIG, tmp_path)
    halves = _halves(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    if sharded:
        for i, half in enumerate(halves):
            torch.save(half, tmp_path / f"pytorch_model-{i}.bin")
        _write_index(tmp_path, "pytorch_model-{}.bin", halves)
    else:
        torch.save(halves[0] | halves[1], tmp_path / "pytorch_model.bin")
    assert torch.allclose(logits(tmp_path, IDS), hf_logits(model, IDS), atol=1e-4)


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (open, (str(self.marker), "w"))


def test_pickled_code_in_a_bin_file_is_not_run(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    marker = tmp_path / "the code ran"
    torch.save({"model.embed_tokens.weight": _Bomb(marker)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be read"):
        logits(tmp_path, IDS)
    assert not marker.exists()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    edit_weights(tmp_path, lambda tensors: {n: t for n, t in tensors.items() if "layers.1.mlp.down_proj" not in n})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, e\.g\. model\.layers\.1\.mlp\.down_proj\.weight"):
        logits(tmp_path, IDS)


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    edit_weights(tmp_path, lambda tensors: {**tensors, "model.norm.weight": torch.ones(7)})
    with pytest.raises(ConfigError, match=r"shape \(7,\) in the checkpoint, expected \(36,\)"):
        logits(tmp_path, IDS)


def test_a_truncated_file_is_a_clear_error(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        logits(tmp_path, IDS)


def test_an_index_that_points_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ConfigError, match="outside its folder"):
        weight_files(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no weights"):
        weight_files(tmp_path)


def test_tensors_may_lie_at_any_address(tmp_path: Path) -> None:
    """Headers need not be filled up to a multiple of 8 bytes."""
    model = save_random_model(CONFIG, tmp_path)
    file = tmp_path / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length] + b" "
    assert len(header) % 4
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    assert torch.allclose(logits(tmp_path, IDS), hf_logits(model, IDS), atol=1e-4)


def test_a_loaded_model_has_nothing_of_the_file_left(tmp_path: Path) -> None:
    """Tensors are mapped while they load: who writes over the file later must not change the model."""
    save_random_model(CONFIG, tmp_path)
    model = loaded(tmp_path)
    file = tmp_path / "model.safetensors"
    before = logits_of(model, IDS)
    with file.open("r+b") as handle:
        handle.write(bytes(file.stat().st_size))
    assert torch.equal(logits_of(model, IDS), before)


@pytest.mark.parametrize("shape", [(3, 5), (1024, 1025)])
def test_copies_share_no_memory(shape: tuple[int, int]) -> None:
    """Small ones and those that are of pages of their own."""
    tensor = torch.randn(*shape).half()
    for dtype in (torch.float16, torch.float32):
        copy = copied(tensor, dtype)
        assert copy.dtype == dtype
        assert torch.equal(copy, tensor.to(dtype))
        copy[0, 0] = 1000
        assert tensor[0, 0] != 1000
