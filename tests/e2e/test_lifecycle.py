"""How a server begins and ends, and what its deaths leave behind."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.server_process import TIMEOUT_S, ServerProcess, environment, free_port, running, wait_gone

SHUTTING_DOWN = "Request failed during generation: Server error: the server is shutting down"


class Stream:
    """A stream read in a thread."""

    def __init__(self, server: ServerProcess, num_tokens: int) -> None:
        self._url = f"{server.url}/generate_stream"
        self._num_tokens = num_tokens
        self.events: list[Any] = []
        self.has_begun = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        body = {"inputs": "Once upon", "parameters": {"max_new_tokens": self._num_tokens, "details": True}}
        with httpx.stream("POST", self._url, json=body, timeout=TIMEOUT_S) as reply:
            for line in reply.iter_lines():
                if line:
                    self.events.append(json.loads(line.removeprefix("data:")))
                    self.has_begun.set()

    def join(self) -> list[Any]:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self.events


def begin(server: ServerProcess, num_streams: int, num_tokens: int) -> list[Stream]:
    streams = [Stream(server, num_tokens) for _ in range(num_streams)]
    for each in streams:
        assert each.has_begun.wait(TIMEOUT_S)
    return streams


@contextmanager
def on_hangup(handler: signal.Handlers) -> Iterator[None]:
    """What servers that start meanwhile inherit; these tests may themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def test_F8_port_is_closed_until_the_engine_is_ready(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model), ready=False) as server:
        server.wait_for_log("Starting shard")
        assert not server.is_listening()
        server.wait_ready()
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.stop() == 0
        assert server.errors == ""


def test_engine_killed_under_streams(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model)) as server:
        streams = begin(server, 4, 2000)
        old = server.engine()
        old.kill()
        for each in streams:
            *tokens, last = each.join()
            assert tokens
            assert last["error_type"] == "generation"
            assert last["error"].startswith("Request failed during generation: ")
        reply = httpx.get(f"{server.url}/health")
        assert (reply.status_code, reply.json()["error_type"]) == (503, "healthcheck")
        reply = httpx.post(f"{server.url}/generate", json={"inputs": "x"})
        assert (reply.status_code, reply.json()["error_type"]) == (424, "generation")

        server.wait_healthy()
        reply = httpx.post(f"{server.url}/generate", json={"inputs": "x", "parameters": {"max_new_tokens": 3}})
        assert reply.status_code == 200
        assert server.engine().pid != old.pid
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_H11_signals_drain(model: Path, tmp_path: Path, number: int) -> None:
    with on_hangup(signal.SIG_DFL), running(tmp_path, str(model)) as server:
        family = server.children()
        (stream,) = begin(server, 1, 500)
        server.process.send_signal(number)
        events = stream.join()
        assert len(events) == 500
        assert events[-1]["details"]["finish_reason"] == "length"
        assert server.wait() == 0
        wait_gone(family)
        assert not server.is_listening()
        assert server.errors == ""


def test_nohup(model: Path, tmp_path: Path) -> None:
    """The demo leaves a server running in a terminal that will be closed."""
    with on_hangup(signal.SIG_IGN), running(tmp_path, str(model)) as server:
        server.process.send_signal(signal.SIGHUP)
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.stop() == 0


def test_H11_F9_draining_ends_at_the_timeout(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model), "-g", "0") as server:
        family = server.children()
        (stream,) = begin(server, 1, 2000)
        assert server.stop() == 0
        *tokens, last = stream.join()
        assert 0 < len(tokens) < 2000
        assert last == {"error": SHUTTING_DOWN, "error_type": "generation"}
        wait_gone(family)


def test_H11_a_second_signal_ends_at_once(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model)) as server:
        family = server.children()
        (stream,) = begin(server, 1, 2000)
        server.process.send_signal(signal.SIGINT)
        server.wait_for_log("Shutting down")
        assert server.stop(signal.SIGINT) == 0
        assert stream.join()[-1]["error"] == SHUTTING_DOWN
        wait_gone(family)


def test_stopped_while_loading(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model), ready=False) as server:
        server.wait_for_log("Starting shard")
        family = server.children()
        assert server.stop() == 0
        wait_gone(family)
        assert "Connected" not in server.log
        assert server.errors == ""


def test_a_killed_server_leaves_no_engine(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model)) as server:
        family = server.children()
        server.process.kill()
        wait_gone(family)


@pytest.fixture
def broken_model(model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def launch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [
        sys.executable,
        "-c",
        "import sys; from segue.launcher import cli; sys.exit(cli.text_generation_launcher())",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment(), timeout=TIMEOUT_S)


def test_F8_a_model_that_cannot_be_loaded(broken_model: Path) -> None:
    result = launch("--model-id", str(broken_model), "--port", str(free_port()))
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ShardCannotStart: ")
    assert "holds no weights" in result.stderr
    assert "Connected" not in result.stdout


def test_a_tokenizer_that_cannot_be_read(broken_model: Path) -> None:
    (broken_model / "tokenizer.json").write_text("{}")
    result = launch("--model-id", str(broken_model), "--port", str(free_port()))
    assert result.returncode == 1
    assert "tokenizer.json cannot be read" in result.stderr


def test_F5_F7_a_model_that_is_not_there() -> None:
    result = launch("--model-id", "some/model", "--port", str(free_port()))
    assert result.returncode == 1
    assert result.stderr == "Error: DownloadError: 'some/model' is not in the cache, and HF_HUB_OFFLINE is set\n"


def test_F5_a_port_that_is_taken(server: ServerProcess, model: Path) -> None:
    result = launch("--model-id", str(model), "--hostname", "127.0.0.1", "--port", str(server.port))
    assert result.returncode == 1
    assert result.stderr == (
        f"Error: WebserverCannotStart: cannot listen on 127.0.0.1 port {server.port}: Address already in use\n"
    )


def test_a_port_that_is_taken_while_the_model_loads(model: Path, tmp_path: Path) -> None:
    """Two servers may bind one port as long as neither listens."""
    with socket.socket() as other, running(tmp_path, str(model), ready=False) as server:
        server.wait_for_log("Starting shard")
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.port))
        other.listen()
        family = server.children()
        assert server.wait() == 1
        assert server.errors.startswith("Error: WebserverFailed: ")
        assert "Address already in use" in server.errors
        wait_gone(family)


def test_L1_json_output(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model), "--json-output") as server:
        assert server.stop() == 0
        messages = [json.loads(line)["fields"]["message"] for line in server.log.splitlines()]
        assert "Connected" in messages


def test_M2_metrics_on_their_own_port(model: Path, tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, str(model), "--prometheus-port", str(port)) as server:
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics")
        assert metrics.status_code == 200
        assert "tgi_request_count" in metrics.text
        assert httpx.get(f"http://127.0.0.1:{port}/generate").status_code == 404
        assert server.stop() == 0


def test_M2_a_metrics_port_that_is_taken(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with running(tmp_path, str(model), "--prometheus-port", str(port)) as server:
            assert "Metrics have no port of their own" in server.log
            assert "tgi_request_count" in httpx.get(f"{server.url}/metrics").text
            assert server.stop() == 0
