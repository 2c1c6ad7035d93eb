"""PyTorch's weights into safetensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from segue.core.errors import ConfigError
from segue.launcher.bin_weights import convert_folder
from segue.models.loader import weight_files


def write(folder: Path, tensors: dict[str, Tensor], name: str = "pytorch_model.bin", **config: Any) -> None:
    torch.save(tensors, folder / name)
    (folder / "config.json").write_text(json.dumps(config))


def test_F7_converted_weights_are_the_same(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(3, 4).bfloat16(), "b": torch.arange(5), "view": torch.randn(6, 2)[1:4].T}
    write(tmp_path, tensors)
    progress: list[tuple[int, int]] = []
    (file,) = convert_folder(tmp_path, lambda done, total: progress.append((done, total)))
    assert file.name == "model.safetensors"
    loaded = load_file(file)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert loaded["a.weight"].dtype == torch.bfloat16
    size = (tmp_path / "pytorch_model.bin").stat().st_size
    assert progress == [(size, size)]
    assert weight_files(tmp_path) == [file]


def test_F7_shared_tensors_are_stored_once(tmp_path: Path) -> None:
    """T5's class reads three of these from ``shared.weight``, which comes last by name."""
    table = torch.randn(7, 4)
    names = ("decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight", "shared.weight")
    write(tmp_path, dict.fromkeys(names, table), architectures=["T5ForConditionalGeneration"])
    (file,) = convert_folder(tmp_path)
    assert list(load_file(file)) == ["shared.weight"]


def test_F7_equal_parts_of_one_tensor_are_not_shared(tmp_path: Path) -> None:
    whole = torch.randn(8, 4)
    write(tmp_path, {"first": whole[:4], "second": whole[4:], "whole": whole})
    (file,) = convert_folder(tmp_path)
    assert load_file(file).keys() == {"first", "second", "whole"}


def test_F7_a_model_that_says_it_is_not_tied_keeps_both(tmp_path: Path) -> None:
    table = torch.randn(7, 4)
    tensors = {"lm_head.weight": table, "model.embed_tokens.weight": table}
    write(tmp_path, tensors, architectures=["LlamaForCausalLM"], tie_word_embeddings=False)
    (file,) = convert_folder(tmp_path)
    assert load_file(file).keys() == tensors.keys()


def test_F7_several_files_have_an_index(tmp_path: Path) -> None:
    write(tmp_path, {"a": torch.ones(2)}, "pytorch_model-00001-of-00002.bin")
    write(tmp_path, {"b": torch.zeros(2)}, "pytorch_model-00002-of-00002.bin")
    files = convert_folder(tmp_path)
    assert [file.name for file in files] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {"a": files[0].name, "b": files[1].name}
    assert weight_files(tmp_path) == files


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("code of the checkpoint runs",)


def test_F7_pickled_code_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"a": torch.ones(2)}, "pytorch_model-00001-of-00002.bin")
    torch.save({"b": Harmful()}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(ConfigError, match=r"00002-of-00002\.bin cannot be read"):
        convert_folder(tmp_path)
    assert "code of the checkpoint" not in capfd.readouterr().out
    assert not list(tmp_path.glob("*.safetensors*"))


def test_F7_nothing_to_convert(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no pytorch_model"):
        convert_folder(tmp_path)
