"""Several API processes on one port, before one engine."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from e2e.server_process import TIMEOUT_S, ServerProcess, running, wait_for, wait_gone

NUM_PROCESSES = 3
NUM_REQUESTS = 24


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with running(tmp_path, str(model), "--api-processes", str(NUM_PROCESSES)) as server:
        yield server


def api_children(server: ServerProcess) -> list[psutil.Process]:
    return [each for each in server.children() if "segue.launcher.api_child" in each.cmdline()]


def generate(server: ServerProcess, num_tokens: int = 4) -> int:
    body = {"inputs": "hello", "parameters": {"max_new_tokens": num_tokens}}
    return httpx.post(f"{server.url}/generate", json=body, timeout=TIMEOUT_S).status_code


def counted(server: ServerProcess, name: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=TIMEOUT_S).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.split()[0] == name)


def test_every_process_answers_and_metrics_are_their_sum(server: ServerProcess) -> None:
    assert len(api_children(server)) == NUM_PROCESSES - 1
    with ThreadPoolExecutor(NUM_REQUESTS) as threads:
        assert list(threads.map(lambda _: generate(server), range(NUM_REQUESTS))) == [200] * NUM_REQUESTS
    # Whichever process is asked, it speaks for all.
    for _ in range(8):
        assert counted(server, "tgi_request_count") == NUM_REQUESTS
        assert counted(server, "tgi_request_success") == NUM_REQUESTS
        assert counted(server, "tgi_request_generated_tokens_sum") == 4 * NUM_REQUESTS
        assert counted(server, "tgi_request_duration_count") == NUM_REQUESTS


def test_a_signal_ends_all_after_what_runs(server: ServerProcess) -> None:
    family = server.children()
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 200}}
    with ThreadPoolExecutor(6) as threads:
        begun: set[int] = set()

        def stream(number: int) -> dict[str, object]:
            with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=TIMEOUT_S) as response:
                events = [line for line in response.iter_lines() if line and not begun.add(number)]
            last: dict[str, object] = json.loads(events[-1].removeprefix("data:"))
            return last

        answers = threads.map(stream, range(6))
        wait_for(lambda: len(begun) == 6, "streams that run")
        assert server.stop() == 0
        assert all(answer["generated_text"] for answer in answers)
    wait_gone(family)


def test_the_end_of_one_ends_the_server(server: ServerProcess) -> None:
    family = server.children()
    api_children(server)[0].send_signal(signal.SIGKILL)
    assert server.wait() != 0
    wait_gone(family)


def test_a_new_engine_serves_all_of_them(server: ServerProcess) -> None:
    (engine,) = [each for each in server.children() if "segue.launcher.engine_child" in each.cmdline()]
    engine.kill()
    wait_for(lambda: "ready" in server.log.split("ended by signal")[-1], "a new engine")
    with ThreadPoolExecutor(8) as threads:
        wait_for(lambda: set(threads.map(lambda _: generate(server), range(8))) == {200}, "all processes well")
