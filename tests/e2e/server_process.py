"""A server as a user starts it: the command in a process of its own, its log in a file."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

SRC = Path(__file__).parent.parent.parent / "src"
TIMEOUT_S = 120.0
"""Of everything here; far more than is needed on a busy machine."""


class ServerProcess:
    """``segue serve …`` on a free port."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"server-{self.port}.log"
        self._errors = folder / f"server-{self.port}.err"
        command = [sys.executable, "-m", "segue", "serve", "--hostname", "127.0.0.1", "--port", str(self.port)]
        command += ["--prometheus-port", str(self.port), "--device", "cpu", "--num-threads", "1", *arguments]
        with self._log.open("w") as out, self._errors.open("w") as errors:
            self.process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment())

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def wait_for_log(self, words: str) -> None:
        wait_for(lambda: words in self.log or self.process.poll() is not None, f"{words!r} in the log")
        assert words in self.log, self.log + self.errors

    def wait_ready(self) -> None:
        self.wait_for_log("Connected")

    def wait_healthy(self) -> None:
        wait_for(lambda: httpx.get(f"{self.url}/health").status_code == 200, "health")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def engine(self) -> psutil.Process:
        (engine,) = self.children()
        return engine

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(TIMEOUT_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def running(folder: Path, *arguments: str, ready: bool = True) -> Iterator[ServerProcess]:
    """A server that is ready, unless ``ready`` is False; nothing of it is left at the end, whatever happened."""
    server = ServerProcess(folder, *arguments)
    try:
        if ready:
            server.wait_ready()
        yield server
    finally:
        family = [*server.children(), server.process] if server.process.poll() is None else []
        for process in family:
            process.kill()
        server.process.wait(TIMEOUT_S)


def environment(**variables: str) -> dict[str, str]:
    """Of this process, without what would configure a server."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | variables


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=TIMEOUT_S)
    assert not alive


def wait_for(condition: object, what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"no {what} within {TIMEOUT_S} s"
        time.sleep(0.02)
