"""Finding a model: samples, local folders, and downloads from a Hub that runs in the test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launcher.fake_hub import SHA, FakeHub, FakeRepo

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.download import DownloadError, choose_files, find_model

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


def test_download(hub: FakeHub, tmp_path: Path) -> None:
    source = find(hub, tmp_path)
    assert source.sha == SHA
    assert source.pipeline_tag == "text-generation"
    assert sorted(path.name for path in source.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (source.folder / "model.safetensors").read_bytes() == b"weights"


def test_code_comes_only_when_it_is_trusted(hub: FakeHub, tmp_path: Path) -> None:
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


def test_token_opens_a_private_repository(hub: FakeHub, tmp_path: Path) -> None:
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


def test_offline_asks_nobody(hub: FakeHub, tmp_path: Path) -> None:
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
        (["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter"),
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
    with pytest.raises(ConfigError, match="is a LoRA adapter"):
        find_model(ServeConfig(model_id=str(tmp_path)))


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "a/b/c"])
def test_paths_that_do_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a name on the Hub"):
        find_model(ServeConfig(model_id=name))


def test_weights_cache_override(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    source = find_model(ServeConfig(model_id="some/model", weights_cache_override=str(tmp_path)))
    assert (source.model_id, source.folder) == ("some/model", tmp_path)


def test_samples_are_in_the_package() -> None:
    source = find_model(ServeConfig(model_id="sample-t5"))
    assert source.model_id == "sample-t5"
    assert source.folder.parts[-3:] == ("segue", "samples", "t5")
