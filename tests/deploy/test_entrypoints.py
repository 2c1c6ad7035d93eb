"""The images' entry points, run as they are, with a launcher that tells what it was given."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
LAUNCHER = f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is first on PATH."""
    launcher = tmp_path / "text-generation-launcher"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    return tmp_path


def _run(script: str, programs: Path, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(programs), **env}
    return subprocess.run([DEPLOY / script, *arguments], env=env, capture_output=True, text=True, check=False)


def _launched(script: str, programs: Path, *arguments: str, **env: str) -> tuple[list[str], dict[str, str]]:
    import json

    result = _run(script, programs, *arguments, **env)
    assert result.returncode == 0, result.stderr
    given, variables = json.loads(result.stdout.splitlines()[-1])
    return given, variables


def test_flags_and_variables_reach_the_launcher(programs: Path) -> None:
    given, env = _launched("entrypoint.sh", programs, "--model-id", "my model", "--json-output", PORT="80")
    assert given == ["--model-id", "my model", "--json-output"]
    assert env["PORT"] == "80"


def test_hostname_that_the_engine_sets_is_no_address(programs: Path) -> None:
    own = Path("/etc/hostname").read_text().strip()
    assert "HOSTNAME" not in _launched("entrypoint.sh", programs, HOSTNAME=own)[1]
    assert _launched("entrypoint.sh", programs, HOSTNAME="127.0.0.1")[1]["HOSTNAME"] == "127.0.0.1"


def test_given_threads_are_kept(programs: Path) -> None:
    assert _launched("entrypoint.sh", programs, OMP_NUM_THREADS="3")[1]["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in _launched("entrypoint.sh", programs, NUM_THREADS="3")[1]


def test_F11_sagemaker(programs: Path) -> None:
    given, env = _launched(
        "sagemaker-entrypoint.sh",
        programs,
        "serve",
        HF_MODEL_ID="my/model",
        HF_MODEL_REVISION="main",
        SM_NUM_GPUS="4",
        HF_MODEL_QUANTIZE="awq",
        HF_MODEL_TRUST_REMOTE_CODE="true",
        PORT="80",
    )
    assert given == ["--port", "8080"]
    names = ("MODEL_ID", "REVISION", "NUM_SHARD", "QUANTIZE", "TRUST_REMOTE_CODE")
    assert [env[name] for name in names] == ["my/model", "main", "4", "awq", "true"]


def test_F11_sagemaker_passes_on_only_what_is_set(programs: Path) -> None:
    given, env = _launched("sagemaker-entrypoint.sh", programs, "--json-output", HF_MODEL_ID="my/model")
    assert given == ["--port", "8080", "--json-output"]
    assert not {"REVISION", "NUM_SHARD", "QUANTIZE", "TRUST_REMOTE_CODE"} & set(env)


def test_F11_sagemaker_without_model(programs: Path) -> None:
    result = _run("sagemaker-entrypoint.sh", programs, "serve")
    assert result.returncode == 1
    assert "HF_MODEL_ID must be set" in result.stderr


def test_google_port(programs: Path) -> None:
    assert _launched("google-entrypoint.sh", programs)[1]["PORT"] == "8080"
    assert _launched("google-entrypoint.sh", programs, PORT="8090")[1]["PORT"] == "8090"
    assert _launched("google-entrypoint.sh", programs, PORT="8090", AIP_HTTP_PORT="7080")[1]["PORT"] == "7080"


def test_google_passes_the_routes_on(programs: Path) -> None:
    routes = {"AIP_PREDICT_ROUTE": "/predict", "AIP_HEALTH_ROUTE": "/alive"}
    env = _launched("google-entrypoint.sh", programs, **routes)[1]
    assert routes.items() <= env.items()


def test_google_refuses_other_storage(programs: Path) -> None:
    result = _run("google-entrypoint.sh", programs, AIP_STORAGE_URI="s3://bucket/model")
    assert result.returncode == 1
    assert "must begin with gs://" in result.stderr
    assert result.stdout == ""
