"""The commands as processes of their own, with plain processes as servers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from segue.containers.runtime import start_time

ROOT = Path(__file__).parents[2]
SAMPLE = str(ROOT / "src/segue/samples/chat")
PROGRAM = """
import argparse
from segue.containers.cli import add_commands
parser = argparse.ArgumentParser(prog="segue", allow_abbrev=False)
add_commands(parser.add_subparsers(required=True))
namespace = parser.parse_args()
namespace.run(namespace)
"""


class Command:
    """``segue`` with a cache folder of its own, and so with servers of its own."""

    def __init__(self, cache: Path) -> None:
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DOCKER_"))}
        self.env |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        self.env["DOCKER_HOST"] = f"unix://{cache}/nobody.sock"

    def start(self, *arguments: str, **env: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-c", PROGRAM, *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, env=self.env | env, **pipes)

    def __call__(self, *arguments: str, code: int = 0, **env: str) -> tuple[str, str]:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, (process.returncode, out, err)
        return out, err


@pytest.fixture
def segue(tmp_path: Path) -> Command:
    return Command(tmp_path)


def _statuses(segue: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(segue("container", "status", "--json")[0])
    return found


def test_up_status_generate_logs_down(segue: Command) -> None:
    """With Segue's own server on the model that ships with it."""
    out, err = segue("container", "up", "sample-chat", "--runtime", "process", "-o", "max-total-tokens=128")
    url = out.strip()
    try:
        assert "segue-sample-chat is ready" in err
        (status,) = _statuses(segue)
        assert (status["name"], status["is_ready"], status["url"]) == ("segue-sample-chat", True, url)
        body = {"inputs": "Once upon", "parameters": {"max_new_tokens": 4}}
        assert httpx.post(f"{url}/generate", json=body, timeout=60).json()["generated_text"]
        assert httpx.get(f"{url}/info").json()["max_total_tokens"] == 128
        assert segue("container", "logs", "segue-sample-chat", "-n", "1")[0].count("\n") == 1
        assert "Connected" in segue("container", "logs", "segue-sample-chat")[0]
        assert segue("container", "status")[0].startswith("segue-sample-chat\tready\thttp://127.0.0.1:")
        assert "is running already" in segue("container", "up", "sample-chat", "--runtime", "process", code=1)[1]
    finally:
        segue("container", "down", "segue-sample-chat")
    assert _statuses(segue) == []
    assert "no server named" in segue("container", "down", "segue-sample-chat", code=1)[1]
    segue("container", "down", "--all")


def test_failed_start_leaves_nothing(segue: Command) -> None:
    err = segue("container", "up", "./no-model", "--runtime", "process", code=1)[1]
    assert "ended with code 1 before it was ready" in err
    assert "is neither a folder nor a name on the Hub" in err
    assert _statuses(segue) == []


def test_no_engine_is_exit_code_4(segue: Command) -> None:
    assert "no Docker engine answers" in segue("container", "up", "sample-chat", code=4)[1]
    assert "no Docker engine answers" in segue("container", "status", "--runtime", "docker", code=4)[1]
    segue("container", "status")  # looks for processes all the same


def test_not_ready_in_time_is_exit_code_3(segue: Command) -> None:
    segue("container", "up", "sample-chat", "--runtime", "process", "--timeout", "0.3", code=3)
    assert _statuses(segue) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_signal_while_starting_removes_the_server(
    segue: Command, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = segue.start("container", "up", "sample-chat", "--runtime", "process")
    record = tmp_path / "segue/processes/segue-sample-chat/record.json"
    until = time.monotonic() + 60
    while not record.exists() and time.monotonic() < until:
        time.sleep(0.01)
    server = json.loads(record.read_text())["pid"]
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    assert start_time(server) is None
    assert _statuses(segue) == []


@pytest.mark.parametrize(
    ("arguments", "argv"),
    [
        (
            ("my/model", "--preset", "ghcr", "--gpus", "device=0,1", "-v", "/m:/data", "-o", "num-shard=2"),
            "docker run -p 8080:80 --gpus '\"device=0,1\"' --shm-size 1g -v /m:/data "
            "ghcr.io/huggingface/text-generation-inference:3.3.5 --model-id my/model --num-shard 2",
        ),
        (
            ("my/model", "--gpus", "none", "--env", "LOG_LEVEL=debug", "--secret", "API_KEY", "--port", "9"),
            "docker run -d --name segue-my-model -p 127.0.0.1:9:80 --shm-size 1g -e LOG_LEVEL=debug "
            "-e HF_TOKEN -e API_KEY segue:latest --model-id my/model",
        ),
        (
            ("my/model", "--preset", "ipfs-cpu", "-o", "trust-remote-code=true", "--arg=--env"),
            "docker run -d --name tgi-my-model -p 8080:80 --cpus 2 --memory 4g --shm-size 1g -e MODEL_ID=my/model "
            "-e NUM_SHARD=1 -e MAX_INPUT_LENGTH=1024 -e MAX_TOTAL_TOKENS=2048 -e TRUST_REMOTE_CODE=true "
            "huggingface/text-generation-inference:latest --env",
        ),
        (
            ("my/model", "--runtime", "process", "--port", "9"),
            "segue serve --model-id my/model --hostname 127.0.0.1 --port 9",
        ),
    ],
)
def test_dry_run(segue: Command, arguments: tuple[str, ...], argv: str) -> None:
    assert segue("container", "up", "--dry-run", *arguments, API_KEY="secret-key")[0].strip() == argv


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("container", "up"), "MODEL"),
        (("container", "up", "m", "--gpus", "some"), "'some' is neither"),
        (("container", "up", "m", "--env", "HF_TOKEN=hf_x"), "would show in process lists"),
        (("container", "up", "m", "--env", "NAME"), "is not NAME=VALUE"),
        (("container", "up", "m", "-o", "max-totl-tokens=3"), "no option max_totl_tokens"),
        (("container", "up", "m", "--arg=--api-key=x"), "would show in process lists"),
        (("container", "down"), "name the servers"),
        (("container", "down", "x", "--all"), "name the servers"),
        (("container", "logs", "x", "-n", "-1"), "at least 0"),
        (("recommend", SAMPLE, "--num-gpus", "0"), "at least 1"),
        (("recommend", SAMPLE), "has to be given"),
    ],
)
def test_wrong_command_line_is_exit_code_2(segue: Command, arguments: tuple[str, ...], text: str) -> None:
    assert text in segue(*arguments, code=2)[1]


def test_recommend(segue: Command) -> None:
    out, _ = segue("recommend", SAMPLE, "--gpu-memory", "80", "--num-gpus", "2")
    assert "num_shard                                2" in out
    found = json.loads(segue("recommend", SAMPLE, "--provider", "gcp", "--format", "json")[0])
    assert found["instance"] == "g2-standard-4"
    assert found["configuration"]["max_total_tokens"] == 1024
    env = dict(
        line.split("=") for line in segue("recommend", SAMPLE, "--gpu-memory", "24", "--format", "env")[0].split()
    )
    assert env == {
        "MODEL_ID": SAMPLE,
        "NUM_SHARD": "1",
        "MAX_INPUT_TOKENS": "1023",
        "MAX_TOTAL_TOKENS": "1024",
        "MAX_BATCH_PREFILL_TOKENS": "1024",
    }
    compat = json.loads(segue("recommend", SAMPLE, "--gpu-memory", "24", "--mode", "compat", "--format", "json")[0])
    assert compat["configuration"]["estimated_memory_in_gigabytes"] > 1.1


def test_recommend_what_does_not_fit(segue: Command, tmp_path: Path) -> None:
    config = json.loads(Path(SAMPLE, "config.json").read_text()) | {"num_hidden_layers": 100_000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "does not fit" in segue("recommend", str(tmp_path), "--gpu-memory", "1", code=1)[1]
