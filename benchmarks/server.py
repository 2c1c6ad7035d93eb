"""A Segue server to measure, and what its processes use."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Served", "cpu_seconds", "served", "tree_memory"]


@dataclass(frozen=True)
class Served:
    port: int
    pids: dict[str, int]
    """Of the API process and of the engine's."""
    ready_s: float
    """From the command to the first answer of ``/health``."""


@contextlib.contextmanager
def served(folder: Path, flags: list[str]) -> Iterator[Served]:
    """``segue serve folder``, ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    command = [sys.executable, "-m", "segue", "serve", str(folder), "--port", str(port), "--hostname", "127.0.0.1"]
    process = subprocess.Popen([*command, "--prometheus-port", "0", *flags], stdout=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            time.sleep(0.02)
        ready_s = time.perf_counter() - started
        pids = {"api": process.pid, "engine": _engine_of(process.pid)}
        for pid in pids.values():
            _share_weight(pid)
        yield Served(port, pids, ready_s)
    finally:
        process.terminate()
        process.wait(timeout=30)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far: Linux's clock id of another process's CPU clock."""
    return time.clock_gettime((~pid << 3) | 2)


def tree_memory(pid: int) -> int:
    """Proportional memory of a process and its children, in bytes: shared pages count once."""
    pss = sum(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    return pss + sum(tree_memory(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    """Of all its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _engine_of(pid: int) -> int:
    return next(child for child in _children(pid) if b"engine_child" in Path(f"/proc/{child}/cmdline").read_bytes())


def _share_weight(pid: int) -> None:
    """A process of another session, as the engine's is, gets this one's weight; the kernel gives it the common one."""
    try:
        ours = Path("/proc/self/autogroup").read_text().split()[-1]
        if ours != "0":
            Path(f"/proc/{pid}/autogroup").write_text(ours)
    except OSError:
        return  # no such groups, or no right to
