"""TGI's other commands as a user starts them: engine, router and benchmark, each in a process of its own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from e2e.server_process import TIMEOUT_S, ServerProcess, environment, free_port, running, wait_for

BENCHMARK = "segue.launcher.benchmark_command"
ROUTER = "segue.launcher.router_command"
SERVER = "segue.launcher.server_command"


class Command:
    """``main`` of a module, as the installed script calls it; its output in a file."""

    def __init__(self, folder: Path, module: str, *arguments: str) -> None:
        self._log = folder / f"{module}-{len(list(folder.iterdir()))}.log"
        script = f"import sys\nfrom {module} import main\nsys.exit(main())"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(DEVICE="cpu", NUM_THREADS="1"),
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for_log(self, words: str) -> None:
        wait_for(lambda: words in self.log or self.process.poll() is not None, f"{words!r} in the log")
        assert words in self.log, self.log

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


@contextmanager
def started(folder: Path, module: str, *arguments: str) -> Iterator[Command]:
    command = Command(folder, module, *arguments)
    try:
        yield command
    finally:
        command.process.kill()
        command.process.wait(TIMEOUT_S)


def serve(folder: Path, model: Path) -> "Command":
    return Command(folder, SERVER, "serve", str(model), "--uds-path", str(folder / "engine"))


def router_arguments(folder: Path, model: Path, port: int) -> list[str]:
    arguments = ["--tokenizer-name", str(model), "--master-shard-uds-path", str(folder / "engine-0")]
    return [*arguments, "--hostname", "127.0.0.1", "--port", str(port), "--prometheus-port", str(port)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def engine(folder: Path, model: Path) -> Iterator[Command]:
    command = serve(folder, model)
    try:
        command.wait_for_log("Server started at unix://")
        yield command
        assert command.stop() == 0, command.log
        assert not (folder / "engine-0").exists()
    finally:
        command.process.kill()
        command.process.wait(TIMEOUT_S)


def test_B1_B2_a_router_serves_an_engine(engine: Command, folder: Path, model: Path) -> None:
    port = free_port()
    arguments = [*router_arguments(folder, model, port), "--max-total-tokens", "50", "--max-best-of", "3"]
    with started(folder, ROUTER, *arguments) as router:
        router.wait_for_log("Connected")
        url = f"http://127.0.0.1:{port}"
        info = httpx.get(f"{url}/info").json()
        assert (info["max_total_tokens"], info["max_input_tokens"], info["max_best_of"]) == (50, 49, 3)
        reply = httpx.post(f"{url}/generate", json={"inputs": "ab", "parameters": {"max_new_tokens": 5}}, timeout=60)
        assert reply.status_code == 200
        reply = httpx.post(f"{url}/generate", json={"inputs": "ab", "parameters": {"max_new_tokens": 60}}, timeout=60)
        assert reply.json()["error_type"] == "validation"
        assert router.stop() == 0
    assert engine.process.poll() is None


def test_B2_limits_that_the_engine_does_not_have(engine: Command, folder: Path, model: Path) -> None:
    arguments = [*router_arguments(folder, model, free_port()), "--max-total-tokens", "1000000"]
    with started(folder, ROUTER, *arguments) as router:
        assert router.process.wait(TIMEOUT_S) == 1
        assert 'Error: ArgumentValidation("Not enough memory to handle `max_total_tokens=1000000`' in router.log


def test_B2_a_router_waits_for_its_engine_and_outlives_it(folder: Path, model: Path, tmp_path: Path) -> None:
    port = free_port()
    with started(tmp_path, ROUTER, *router_arguments(tmp_path, model, port)) as router:
        router.wait_for_log("Model ")
        first = serve(tmp_path, model)
        router.wait_for_log("Connected")
        first.process.kill()
        assert first.process.wait(TIMEOUT_S) == -signal.SIGKILL
        health = f"http://127.0.0.1:{port}/health"
        wait_for(lambda: httpx.get(health).status_code == 503, "a router that knows")
        with started(tmp_path, SERVER, "serve", str(model), "--uds-path", str(tmp_path / "engine")):
            wait_for(lambda: httpx.get(health).status_code == 200, "health")
            reply = httpx.post(f"http://127.0.0.1:{port}/", json={"inputs": "ab"}, timeout=60)
            assert reply.status_code == 200
        assert router.stop() == 0


def test_B1_one_engine_a_socket(engine: Command, folder: Path, model: Path) -> None:
    with started(folder, SERVER, "serve", str(model), "--uds-path", str(folder / "engine")) as second:
        assert second.process.wait(TIMEOUT_S) == 1
        assert "engine-0 cannot be used; another engine may listen there" in second.log
    assert engine.process.poll() is None


def test_B1_a_model_that_cannot_be_loaded(model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    with started(tmp_path, SERVER, "serve", str(tmp_path), "--uds-path", str(tmp_path / "engine")) as server:
        assert server.process.wait(TIMEOUT_S) == 1
        assert "Error: ShardCannotStart: " in server.log
        assert "holds no weights" in server.log


def benchmark(folder: Path, model: Path, socket: Path) -> str:
    arguments = ["-t", str(model), "-m", str(socket), "-b", "1", "-b", "3", "-r", "2", "-s", "20", "-d", "4"]
    with started(folder, BENCHMARK, *arguments) as command:
        assert command.process.wait(TIMEOUT_S) == 0, command.log
        return command.log


def test_B3_benchmark(engine: Command, folder: Path, model: Path) -> None:
    text = benchmark(folder, model, folder / "engine-0")
    assert "Benchmark" in text, "a progress bar"
    assert re.search(r"\| Sequence Length +\| 20 ", text)
    for step in ("Prefill", "Decode (token)", "Decode (total)"):
        for size in (1, 3):
            assert re.search(rf"\| {re.escape(step)} +\| {size} +(\| \d+\.\d\d ms +){{6}}\|", text)
    assert len(re.findall(r"\| (Prefill|Decode) +\| [13] +(\| \d+\.\d\d tokens/secs +){3}\|", text)) == 4


def test_B3_benchmark_of_a_server_that_runs(model: Path, tmp_path: Path) -> None:
    """TGI's way: inside the container in which the launcher serves."""
    with running(tmp_path, str(model), "--shard-uds-path", str(tmp_path / "shard")) as server:
        assert "tokens/secs" in benchmark(tmp_path, model, tmp_path / "shard-0")
        with running(tmp_path, str(model), "--shard-uds-path", str(tmp_path / "shard")) as second:
            assert "shard-0 belongs to another server" in second.log
            assert answers(second)
        assert answers(server)


def answers(server: ServerProcess) -> bool:
    body = {"inputs": "ab", "parameters": {"max_new_tokens": 2}}
    return httpx.post(f"{server.url}/generate", json=body, timeout=60).status_code == 200


def test_B3_no_engine(model: Path, tmp_path: Path) -> None:
    with started(tmp_path, BENCHMARK, "-t", str(model), "-m", str(tmp_path / "nothing")) as command:
        assert command.process.wait(TIMEOUT_S) == 1
        assert "no engine answers at" in command.log


def test_F3_limits_from_the_model_and_the_memory(model: Path, tmp_path: Path) -> None:
    """A token of the tiny model takes 2 layers of 2 times 16 numbers of 4 bytes."""
    with running(tmp_path, str(model), "--kv-cache-memory", str(100 * 16 * 256)) as server:
        info = httpx.get(f"{server.url}/info").json()
        assert (info["max_total_tokens"], info["max_input_tokens"]) == (1600, 1599)
        server.wait_for_log("Setting max batch total tokens to 1600")


def test_L1_markers_that_tooling_looks_for(server: ServerProcess) -> None:
    for marker in (
        "Starting shard",
        "Shard ready in",
        "Starting Webserver",
        "Warming up model",
        "Setting max batch total tokens to ",
        "Using backend V3",
        "Using prefix caching = ",
        "Using Attention = ",
        "Connected",
    ):
        assert marker in server.log


def test_F2_several_shards(model: Path) -> None:
    script = "import sys; from segue.launcher import cli; sys.exit(cli.text_generation_launcher())"
    command = [sys.executable, "-c", script, "--model-id", str(model), "--num-shard", "2"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=TIMEOUT_S)
    assert result.returncode == 1
    assert result.stderr.startswith('Error: ArgumentValidation("2 shards need tensor parallelism')
