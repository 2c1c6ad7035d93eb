"""Packed weights on disk: the second start gives the same logits without the checkpoint's weights."""

import os
import shutil
from pathlib import Path

import pytest
import small_models as small
import torch
from checkpoints import edit_config, edit_weights, logits
from packed_checkpoints import gptq, quantize_checkpoint, round_to_nearest
from parity import save_random_model
from transformers import OPTConfig, PreTrainedConfig

from segue.kernels import cpu
from segue.models import weight_cache
from segue.models.loader import _Loading
from segue.models.weight_cache import WeightCache, fingerprint

pytestmark = pytest.mark.skipif(not cpu.is_available(), reason="packed weights are those of the native kernels")

FAMILIES: dict[str, PreTrainedConfig] = {
    **small.FAMILIES,
    "opt": OPTConfig(
        vocab_size=97, hidden_size=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, word_embed_proj_dim=64,
    ),
}  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for weights of any size; what is stored is there when loading returns."""
    monkeypatch.setattr(weight_cache, "SMALLEST_BYTES", 0)
    store = WeightCache.store

    def store_and_wait(self: WeightCache, layers: dict[str, object]) -> None:
        thread = store(self, layers)  # type: ignore[arg-type]
        if thread is not None:
            thread.join()

    monkeypatch.setattr(WeightCache, "store", store_and_wait)
    return tmp_path / "cache"


def weights_in(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.weights"))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that the loader reads from the checkpoint."""
    names: list[str] = []
    wants = _Loading.wants

    def note(self: _Loading, name: str) -> bool:
        is_wanted = wants(self, name)
        if is_wanted:
            names.append(name)
        return is_wanted

    monkeypatch.setattr(_Loading, "wants", note)
    return names


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_second_start(family: str, quantize: str | None, tmp_path: Path, cache: Path, taken: list[str]) -> None:
    folder = tmp_path / "model"
    save_random_model(FAMILIES[family], folder)
    first = logits(folder, small.IDS, quantize=quantize, weight_cache=cache)
    assert len(weights_in(cache)) == 1
    taken.clear()
    second = logits(folder, small.IDS, quantize=quantize, weight_cache=cache)
    read = list(taken)
    assert read
    assert not [name for name in read if name.endswith(("up_proj.weight", "c_fc.weight", "fc1.weight"))]
    assert torch.equal(first, second)
    assert torch.equal(first, logits(folder, small.IDS, quantize=quantize))


def test_a_quantized_checkpoint(tmp_path: Path, cache: Path, taken: list[str]) -> None:
    folder = tmp_path / "model"
    model = save_random_model(small.LLAMA, folder)
    quantize_checkpoint(
        folder,
        model,
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
        lambda name, weight: gptq(round_to_nearest(weight, 4, 32, symmetric=False), 4),
    )
    first = logits(folder, small.IDS, weight_cache=cache)
    taken.clear()
    assert torch.equal(first, logits(folder, small.IDS, weight_cache=cache))
    assert taken
    assert not [name for name in taken if name.endswith("qweight")]


def test_other_weights_options_and_configs_are_other_keys(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "model"
    save_random_model(small.LLAMA, folder)
    logits(folder, small.IDS, weight_cache=cache)
    logits(folder, small.IDS, quantize="int8", weight_cache=cache)
    logits(folder, small.IDS, quantize="int8", int8_activations=False, weight_cache=cache)
    edit_config(folder, lambda values: values.update(rms_norm_eps=1e-4))
    logits(folder, small.IDS, weight_cache=cache)
    assert len(weights_in(cache)) == 4
    edit_weights(folder, lambda tensors: {name: tensor * 2 for name, tensor in tensors.items()})
    os.utime(folder / "model.safetensors", (1, 1))
    changed = logits(folder, small.IDS, weight_cache=cache)
    assert len(weights_in(cache)) == 5
    assert torch.equal(changed, logits(folder, small.IDS))


@pytest.mark.parametrize("damage", ["truncated", "empty", "no header", "other magic"])
def test_a_damaged_file_is_a_miss(damage: str, tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "model"
    save_random_model(small.LLAMA, folder)
    first = logits(folder, small.IDS, weight_cache=cache)
    (file,) = weights_in(cache)
    good = file.read_bytes()
    start = int.from_bytes(good[:8], "little")
    first_blob = -(-(8 + start) // 64) * 64
    bad = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "no header": bytes([7]) * len(good),
        "other magic": good[:first_blob] + b"?" + good[first_blob + 1 :],
    }[damage]
    file.write_bytes(bad)
    assert torch.equal(first, logits(folder, small.IDS, weight_cache=cache))
    assert "cannot be used" in caplog.text
    assert file.read_bytes() == good


def test_small_models_are_not_worth_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_random_model(small.LLAMA, folder)
    logits(folder, small.IDS, weight_cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    save_random_model(small.LLAMA, folder)
    cache.write_text("a file where the folder should be")
    assert torch.equal(logits(folder, small.IDS, weight_cache=cache), logits(folder, small.IDS))
    assert "not cached" in caplog.text


def test_the_oldest_files_make_room(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    save_random_model(small.LLAMA, folder)
    logits(folder, small.IDS, weight_cache=cache)
    (file,) = weights_in(cache)
    size = file.stat().st_size
    for number in range(3):
        old = cache / f"{number}.weights"
        old.write_bytes(bytes(size))
        os.utime(old, (1000 + number, 1000 + number))
    disk = type("Usage", (), {"free": 20 * size})
    monkeypatch.setattr(weight_cache.shutil, "disk_usage", lambda path: disk)
    monkeypatch.setattr(weight_cache, "DISK_SHARE", 3.5 / 24)  # of 20 free and 4 used: 3.5 files
    logits(folder, small.IDS, quantize="int8", weight_cache=cache)
    left = {path.name for path in cache.iterdir()}
    assert file.name in left
    assert "0.weights" not in left
    assert "2.weights" in left


def test_what_nobody_uses_any_more_goes(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "model"
    save_random_model(small.LLAMA, folder)
    cache.mkdir()
    (cache / "a.name").write_text("weights that are gone")
    for name, age_s in (("b.1.tmp", weight_cache.UNFINISHED_S + 60), ("c.1.tmp", 0)):
        (cache / name).write_bytes(b"")
        then = (cache / name).stat().st_mtime - age_s
        os.utime(cache / name, (then, then))
    logits(folder, small.IDS, weight_cache=cache)
    assert {path.name for path in cache.iterdir() if path.name[0] in "abc" and path.name[1] == "."} == {"c.1.tmp"}
    assert len(list(cache.iterdir())) == 3  # with the weights and their name


def test_a_copy_finds_the_same_weights(tmp_path: Path, cache: Path, taken: list[str]) -> None:
    """The name is a hash of the bytes: a copy is packed once more, since nobody waits for that hash, and then known."""
    folder, copy = tmp_path / "model", tmp_path / "copy"
    save_random_model(small.LLAMA, folder)
    first = logits(folder, small.IDS, weight_cache=cache)
    shutil.copytree(folder, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    logits(copy, small.IDS, weight_cache=cache)
    assert len(weights_in(cache)) == 1
    taken.clear()
    assert torch.equal(first, logits(copy, small.IDS, weight_cache=cache))
    assert not [name for name in taken if name.endswith("up_proj.weight")]


def test_a_checkpoint_that_changes_while_it_loads_is_not_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    save_random_model(small.LLAMA, folder)
    finish = _Loading.finish

    def finish_and_touch(self: _Loading, folder: Path) -> None:
        finish(self, folder)
        os.utime(folder / "model.safetensors", (1, 1))

    monkeypatch.setattr(_Loading, "finish", finish_and_touch)
    logits(folder, small.IDS, weight_cache=cache)
    assert "changed while it was loaded" in caplog.text
    assert not cache.exists()


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"

    def written(content: bytes, time: int) -> str:
        file.write_bytes((2).to_bytes(8, "little") + b"{}" + content)
        os.utime(file, (time, time))
        return fingerprint([file])

    content = bytes(10**6)
    first = written(content, 5)
    assert first == written(content, 5)
    assert first != written(content, 6)
    assert first != written(content + b"a", 5)
    assert first != written(bytes(5 * 10**5) + bytes([1]) * 5 * 10**5, 5)  # nothing but the bytes tells


def test_facts_are_part_of_the_name(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((2).to_bytes(8, "little") + b"{}")
    names = {WeightCache(tmp_path, [file], {"a": value})._name_file for value in (1, 2, 1)}
    assert len(names) == 2
