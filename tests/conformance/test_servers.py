"""``segue check`` with servers that it starts itself: real ones, of the sample model."""

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from client.tgi_server import TgiServer

pytest.importorskip("torch")
from segue.conformance.cli import ExitCode, run
from segue.conformance.options import CheckOptions
from segue.conformance.servers import CannotStartError, deployment, running_target

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(autouse=True)
def of_this_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(SRC))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_started_server_asks_for_the_key_and_is_gone_afterwards() -> None:
    with running_target(CheckOptions(api_key="the-key"), dict(os.environ)) as target:
        assert target.model_id == "sample-chat"
        body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
        without = httpx.post(f"{target.url}/generate", json=body)
        allowed = httpx.post(f"{target.url}/generate", json=body, headers={"authorization": "Bearer the-key"})
        assert (without.status_code, allowed.status_code) == (401, 200)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{target.url}/health")


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = CheckOptions(standard=True, model=str(tmp_path / "no-model"), results_dir=str(tmp_path))
    with pytest.raises(CannotStartError), running_target(options, {}):
        pass
    assert run(options, {}) == ExitCode.NO_ENVIRONMENT
    assert "no-model" in capsys.readouterr().err


def test_a_key_in_the_environment_is_not_taken_for_the_servers(server: TgiServer) -> None:
    with running_target(CheckOptions(container_url=server.url), {"API_KEY": "x", "HF_TOKEN": "y"}) as target:
        assert target.api_key is None


def test_numbered_keys_are_those_of_a_server_that_runs_already(server: TgiServer) -> None:
    environ = {f"HF_API_KEY_{number}": f"key-{number}" for number in range(1, 5)}
    with running_target(CheckOptions(container_url=server.url), environ) as target:
        assert target.keys == ("key-1", "key-2", "key-3")
        assert target.model_id == "m"


@pytest.mark.parametrize("gpu", [None, "all", "1"])
def test_the_container_is_that_of_the_variables(gpu: str | None) -> None:
    options = CheckOptions(
        model="gpt2", docker_registry="huggingface/tgi", container_tag="3", gpu_device=gpu, runtime="process"
    )
    with deployment(options, {}) as deployed:
        assert deployed.own().spec.model_id == "gpt2"
    from segue.conformance.servers import _container_spec

    spec = _container_spec(options)
    assert spec.image == "huggingface/tgi:3"
    assert spec.gpus == ((gpu,) if gpu == "1" else gpu)


@pytest.mark.slow
def test_everything_on_the_sample_model(tmp_path: Path) -> None:
    given: dict[str, Any] = {"runtime": "process", "results_dir": str(tmp_path), "update_expected": True}
    assert run(CheckOptions(**given), dict(os.environ)) == ExitCode.OK
    for name in ("hf_tgi_test_results.json", "hf_tgi_container_test_results.json"):
        collected = (tmp_path / "collected_results" / name).read_text()
        assert collected == (tmp_path / "expected_results" / name).read_text()
        statuses = [each["status"] if isinstance(each, dict) else each for each in json.loads(collected).values()]
        assert set(statuses) == {"Success"}
