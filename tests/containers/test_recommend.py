import json
from pathlib import Path

import pytest

from segue.containers.recommend import describe, recommend
from segue.core.errors import ConfigError

SAMPLES = Path(__file__).parents[2] / "src/segue/samples"


@pytest.mark.parametrize("sample", ["chat", "t5"])
def test_parameters_as_the_weight_files_state_them(sample: str) -> None:
    from segue.core.parameter_count import count_parameters

    found = describe(str(SAMPLES / sample))
    assert found.num_parameters == count_parameters(found.config)


def test_folder_without_weights(tmp_path: Path) -> None:
    config = json.loads((SAMPLES / "chat/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    found = describe(str(tmp_path))
    assert found.num_parameters is None
    assert found.model_max_length == 512
    assert recommend(str(tmp_path), 24, mode="exact").max_total_tokens == 512


def test_config_as_a_mapping() -> None:
    config = json.loads((SAMPLES / "chat/config.json").read_text())
    assert recommend(config, 24, mode="exact").max_total_tokens == 1024


def test_model_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0" * 40
    repository = tmp_path / "models--my--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text((SAMPLES / "chat/config.json").read_text())
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path))
    assert describe("my/model").config["model_type"] == "llama"
    assert describe("my/model").model_max_length is None


@pytest.mark.parametrize("model_id", ["no/such-model", "./no-such-folder", "/no/such/folder"])
def test_model_that_is_nowhere(model_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="is neither a folder"):
        describe(model_id)


def test_broken_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        describe(str(tmp_path))
