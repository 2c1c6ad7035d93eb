"""Finding a model: samples, local folders, and downloads from a Hub that runs in the test."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher.fake_hub import SHA, FakeHub, FakeRepo
from safetensors.torch import load, load_file, save

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.download import DownloadError, choose_files, download_weights, find_model, find_text

MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights",
    "training_args.bin": b"no weights",
    "onnx/model.onnx": b"other weights",
    "modeling_x.py": b"raise SystemExit",
}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub(repos={"some/model": FakeRepo(files=MODEL)})
    with hub.running():
        yield hub


def find(hub: FakeHub, cache: Path, name: str = "some/model", **options: Any) -> Any:
    config = ServeConfig(model_id=name, hf_endpoint=hub.url, huggingface_hub_cache=str(cache), **options)
    return find_model(config, retry_wait_s=0.0)


def test_F7_download(hub: FakeHub, tmp_path: Path) -> None:
    source = find(hub, tmp_path)
    assert source.sha == SHA
    assert source.pipeline_tag == "text-generation"
    assert sorted(path.name for path in source.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (source.folder / "model.safetensors").read_bytes() == b"weights"


def test_F7_code_comes_only_when_it_is_trusted(hub: FakeHub, tmp_path: Path) -> None:
    source = find(hub, tmp_path, trust_remote_code=True)
    assert (source.folder / "modeling_x.py").is_file()


def test_second_start_fetches_no_file_again(hub: FakeHub, tmp_path: Path) -> None:
    find(hub, tmp_path)
    hub.requests.clear()
    find(hub, tmp_path)
    assert not [request for request in hub.requests if request.startswith("GET /some/")]


def test_revision(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["some/model"].revisions = ("v2",)
    assert find(hub, tmp_path, revision="v2").folder.is_dir()
    with pytest.raises(DownloadError, match="'some/model' has no revision 'v3'"):
        find(hub, tmp_path, revision="v3")


def test_F6_token_opens_a_private_repository(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["some/model"].token = "secret"
    with pytest.raises(DownloadError, match="nor a model on the Hub; a private one needs HF_TOKEN"):
        find(hub, tmp_path)
    assert find(hub, tmp_path, hf_token="secret").folder.is_dir()


def test_gated(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["some/model"].is_gated = True
    with pytest.raises(DownloadError, match="is gated: ask for access on its page, then set HF_TOKEN"):
        find(hub, tmp_path)


def test_failures_of_the_hub_are_tried_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.failures += [503, 502, 500]
    assert find(hub, tmp_path).folder.is_dir()


def test_a_hub_that_stays_broken(hub: FakeHub, tmp_path: Path) -> None:
    hub.failures += [500] * 5
    with pytest.raises(DownloadError, match=r"'some/model' cannot be downloaded: .*500"):
        find(hub, tmp_path)
    assert not hub.failures


def test_an_unreachable_hub_and_a_cached_model(hub: FakeHub, tmp_path: Path) -> None:
    find(hub, tmp_path)
    hub.failures += [500]
    source = find(hub, tmp_path)
    assert source.sha == SHA
    assert (source.folder / "model.safetensors").is_file()


def test_F6_offline_asks_nobody(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="is not in the cache, and HF_HUB_OFFLINE is set"):
        find(hub, tmp_path, hf_hub_offline=True)
    find(hub, tmp_path)
    hub.requests.clear()
    assert find(hub, tmp_path, hf_hub_offline=True).sha == SHA
    assert hub.requests == []


def test_a_cache_that_holds_half_a_model_is_none(hub: FakeHub, tmp_path: Path) -> None:
    """Another program may have fetched the tokenizer alone."""
    source = find(hub, tmp_path)
    (source.folder / "model.safetensors").unlink()
    with pytest.raises(DownloadError, match="is not in the cache"):
        find(hub, tmp_path, hf_hub_offline=True)


def test_pre_made_cache(tmp_path: Path) -> None:
    repo = tmp_path / "models--some--model"
    snapshot = repo / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(SHA)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_bytes(MODEL[name])
    config = ServeConfig(model_id="some/model", huggingface_hub_cache=str(tmp_path), hf_hub_offline=True)
    assert find_model(config).folder == snapshot


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model.safetensors"], "has no config.json"),
        (["config.json", "flax_model.msgpack"], "has no weights"),
        (["adapter_config.json", "README.md"], "has no weights"),
    ],
)
def test_repositories_that_cannot_be_served(hub: FakeHub, tmp_path: Path, files: list[str], message: str) -> None:
    hub.repos["some/model"].files = dict.fromkeys(files, b"{}")
    with pytest.raises(DownloadError, match=message):
        find(hub, tmp_path)


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "consolidated.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
        (["weights.safetensors", "training_state.safetensors", "args.safetensors"], ["weights.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.bin"], ["pytorch_model.bin"]),
        (["sub/model.safetensors", "tf_model.h5"], []),
        (["adapter_config.json", "adapter_model.bin"], ["adapter_model.bin"]),
        (["adapter_config.json", "config.json", "adapter_model.safetensors"], ["adapter_model.safetensors"]),
        (
            ["adapter_config.json", "config.json", "adapter_model.safetensors", "model.safetensors"],
            ["model.safetensors"],
        ),
    ],
)
def test_choice_of_weights(names: list[str], weights: list[str]) -> None:
    assert choose_files(names, with_code=False)[1] == weights


def test_local_folder_needs_no_hub(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    source = find_model(ServeConfig(model_id=str(tmp_path), hf_endpoint="http://127.0.0.1:1"))
    assert source.folder == tmp_path
    assert source.sha is None


def test_local_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        find_model(ServeConfig(model_id=str(tmp_path)))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not name its base model"):
        find_model(ServeConfig(model_id=str(tmp_path)))


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "a/b/c"])
def test_paths_that_do_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a name on the Hub"):
        find_model(ServeConfig(model_id=name))


def test_F6_weights_cache_override(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    source = find_model(ServeConfig(model_id="some/model", weights_cache_override=str(tmp_path)))
    assert (source.model_id, source.folder) == ("some/model", tmp_path)


def test_samples_are_in_the_package() -> None:
    source = find_model(ServeConfig(model_id="sample-t5"))
    assert source.model_id == "sample-t5"
    assert source.folder.parts[-3:] == ("segue", "samples", "t5")


BIN = io.BytesIO()
torch.save({"a.weight": torch.ones(2, 2)}, BIN)
OLD = {"config.json": b'{"model_type": "x"}', "pytorch_model.bin": BIN.getvalue()}
"""A repository from before safetensors."""


def test_F7_bin_weights_are_converted_once(hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.repos["some/model"].files = OLD
    source = find(hub, tmp_path)
    weights = source.folder / "model.safetensors"
    assert torch.equal(load_file(weights)["a.weight"], torch.ones(2, 2))
    assert "Converting PyTorch weights to safetensors" in caplog.text
    before = weights.stat().st_mtime_ns
    assert find(hub, tmp_path, hf_hub_offline=True).folder == source.folder
    assert find(hub, tmp_path).folder == source.folder
    assert weights.stat().st_mtime_ns == before


def test_F7_weights_that_cannot_be_converted_stay(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.repos["some/model"].files = OLD | {"pytorch_model.bin": b"damaged"}
    assert find(hub, tmp_path).folder.is_dir()
    assert "The weights of some/model stay as they are" in caplog.text


def fetch(hub: FakeHub, cache: Path, **options: Any) -> Path:
    given: dict[str, Any] = {"extension": ".safetensors", "convert": True, "merge_adapter": False} | options
    config = ServeConfig(model_id="some/model", hf_endpoint=hub.url, huggingface_hub_cache=str(cache))
    return download_weights(config, **given, retry_wait_s=0.0)


def test_F7_weights_of_the_wanted_kind(hub: FakeHub, tmp_path: Path) -> None:
    folder = fetch(hub, tmp_path, extension=".bin")
    assert (folder / "pytorch_model.bin").is_file()
    assert not (folder / "model.safetensors").exists()
    hub.repos["some/model"].files = OLD
    with pytest.raises(DownloadError, match=r"No \.safetensors weights found for model some/model"):
        fetch(hub, tmp_path / "other", convert=False)


ADAPTER = {
    "adapter_config.json": json.dumps(
        {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "base_model_name_or_path": "some/base"}
    ).encode(),
    "adapter_model.safetensors": save(
        {
            "base_model.model.layer.lora_A.weight": torch.ones(1, 3),
            "base_model.model.layer.lora_B.weight": torch.ones(2, 1),
        }
    ),
}
BASE = {
    "config.json": b'{"model_type": "x"}',
    "tokenizer.json": b"{}",
    "model.safetensors": save({"layer.weight": torch.zeros(2, 3)}),
}


def test_F7_an_adapter_is_merged_into_its_base(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["some/model"].files = ADAPTER
    hub.repos["some/base"] = FakeRepo(files=BASE)
    source = find(hub, tmp_path)
    assert (source.model_id, source.sha) == ("some/model", SHA)
    assert torch.equal(load_file(source.folder / "model.safetensors")["layer.weight"], torch.full((2, 3), 2.0))
    assert (source.folder / "tokenizer.json").is_file()
    assert tmp_path in source.folder.parents

    made = source.folder.stat().st_mtime_ns
    assert find(hub, tmp_path, hf_hub_offline=True).folder == source.folder
    assert source.folder.stat().st_mtime_ns == made
    assert fetch(hub, tmp_path, merge_adapter=True) == source.folder
    plain = fetch(hub, tmp_path)
    assert load((plain / "adapter_model.safetensors").read_bytes()).keys() == {
        "base_model.model.layer.lora_A.weight",
        "base_model.model.layer.lora_B.weight",
    }


def test_F7_an_adapter_of_another_base(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["some/model"].files = ADAPTER
    hub.repos["some/base"] = FakeRepo(files=BASE | {"model.safetensors": save({"x.weight": torch.zeros(2, 3)})})
    with pytest.raises(ConfigError, match="belongs to another base model"):
        find(hub, tmp_path)
    assert not list((tmp_path / ".segue-merged").iterdir())


def test_F7_a_base_that_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["some/model"].files = ADAPTER
    with pytest.raises(DownloadError, match="'some/base' is neither a local folder nor a model on the Hub"):
        find(hub, tmp_path)


def test_F7_parent_model(hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of Medusa heads and speculators; whether it is missed is seen when the model is loaded."""
    config = json.dumps({"model_type": "x", "base_model_name_or_path": "some/base"}).encode()
    hub.repos["some/model"].files = MODEL | {"config.json": config}
    assert find(hub, tmp_path).folder.is_dir()
    assert "The parent model some/base is not at hand" in caplog.text
    hub.repos["some/base"] = FakeRepo(files=BASE)
    find(hub, tmp_path)
    assert (tmp_path / "models--some--base").is_dir()


def test_B2_the_text_side_fetches_no_weights(hub: FakeHub, tmp_path: Path) -> None:
    config = ServeConfig(model_id="some/model", hf_endpoint=hub.url, huggingface_hub_cache=str(tmp_path))
    source = find_text(config, retry_wait_s=0.0)
    assert sorted(path.name for path in source.folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert source.sha == SHA
    hub.failures += [500]
    assert find_text(config, retry_wait_s=0.0).folder == source.folder
