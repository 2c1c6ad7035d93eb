"""From the command to the first token over HTTP, and the memory of all processes while it serves.

    python benchmarks/start.py --model FOLDER [--flags '--quantize int8']

A request that asks for a stream is sent again and again until the port answers; the time runs from the start of
``segue serve`` to the first event of that stream. The first start finds no packed weights, the others find those that
it left. Then 16 streams of 100 + 64 tokens run at a time, and memory is looked at every 50 ms: proportional memory
(pages that processes share count once; pages of mapped files count) of the server and all its children. Lines are
appended to benchmarks/results/load.jsonl.
"""

import argparse
import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from report import machine, record

PROMPT = "Once upon a time there was a"
STREAMS, PROMPT_WORDS, NEW_TOKENS = 16, 100, 64


@dataclass
class Server:
    process: "subprocess.Popen[bytes]"
    port: int
    started: float
    peak_bytes: int = 0

    def watch(self, until: threading.Event) -> None:
        while not until.wait(0.05):
            with contextlib.suppress(OSError):  # a process that just ended
                self.peak_bytes = max(self.peak_bytes, _tree_memory(self.process.pid))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--flags", default="")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    flags = shlex.split(args.flags)
    with tempfile.TemporaryDirectory() as cache:
        with _serving(args.model, flags, cache) as server:
            first = _first_token(server)
            _run_streams(server)
            _wait_for_weights(Path(cache))
        first_peak, later, peaks = server.peak_bytes, [], []
        for _ in range(args.repeats):
            with _serving(args.model, flags, cache) as server:
                later.append(_first_token(server))
                _run_streams(server)
            peaks.append(server.peak_bytes)
    rows = [
        {"what": "first start, to the first token", "median_s": first, "best_s": first},
        {"what": "later starts, to the first token", "median_s": statistics.median(later), "best_s": min(later)},
        {"what": "first start, peak memory of all processes", "megabytes": first_peak / 1e6},
        {"what": "later starts, peak memory of all processes", "megabytes": max(peaks) / 1e6},
    ]
    for row in rows:
        print(", ".join(f"{key} {value:.2f}" if isinstance(value, float) else str(value) for key, value in row.items()))
    command = shlex.join(["python", *sys.argv])
    record("load", rows, {"model": args.model.name, "flags": args.flags, "command": command, **machine()})


@contextlib.contextmanager
def _serving(folder: Path, flags: list[str], cache: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "segue", "serve", str(folder), "--port", str(port), "--hostname", "127.0.0.1"]
    environ = {**os.environ, "XDG_CACHE_HOME": cache}
    started = time.perf_counter()
    process = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, env=environ)
    server, done = Server(process, port, started), threading.Event()
    watcher = threading.Thread(target=server.watch, args=(done,))
    watcher.start()
    try:
        yield server
    finally:
        done.set()
        watcher.join()
        process.send_signal(signal.SIGTERM)
        process.wait()


def _first_token(server: Server) -> float:
    while server.process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            connection, response = _stream(server.port, PROMPT, 8)
            with contextlib.closing(connection):
                line = response.readline()
                assert line.startswith(b"data:"), line
                return time.perf_counter() - server.started
        time.sleep(0.005)
    raise SystemExit(f"the server ended with {server.process.returncode}")


def _stream(port: int, prompt: str, new_tokens: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    body = json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": new_tokens}})
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/generate_stream", body, {"Content-Type": "application/json"})
    return connection, connection.getresponse()


def _wait_for_weights(cache: Path) -> None:
    """Until packed weights are written, or clearly never will be: small models have none."""
    folder, deadline = cache / "segue" / "weights", time.monotonic() + 120
    while time.monotonic() < deadline and not list(folder.glob("*.name")):
        if not folder.exists() and time.monotonic() > deadline - 90:
            return
        time.sleep(0.1)


def _run_streams(server: Server) -> None:
    prompts = [" ".join([f"{i}", *PROMPT.split() * (PROMPT_WORDS // 7)]) for i in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as pool:
        for text in pool.map(lambda prompt: _stream(server.port, prompt, NEW_TOKENS)[1].read(), prompts):
            assert text.startswith(b"data:"), text[:200]


def _tree_memory(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pss = sum(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    return pss + sum(_tree_memory(int(child)) for child in children)


if __name__ == "__main__":
    main()
