"""From the command to the answer: a real server, a real engine process, a model with random weights."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2e.server_process import TIMEOUT_S, ServerProcess, environment, free_port

from segue.core.request import SamplingParams
from segue.launcher.llm import LLM


def generate(server: ServerProcess, inputs: str, **parameters: Any) -> Any:
    reply = httpx.post(
        f"{server.url}/generate",
        json={"inputs": inputs, "parameters": {"details": True, **parameters}},
        timeout=TIMEOUT_S,
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(server: ServerProcess, inputs: str, **parameters: Any) -> list[Any]:
    body = {"inputs": inputs, "parameters": {"details": True, **parameters}}
    with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=TIMEOUT_S) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert all(line.startswith("data:") for line in lines)
    return [json.loads(line.removeprefix("data:")) for line in lines]


def test_stream_equals_non_stream(server: ServerProcess) -> None:
    whole = generate(server, "Once upon", max_new_tokens=30)
    events = stream(server, "Once upon", max_new_tokens=30)
    assert [event["token"]["id"] for event in events] == [token["id"] for token in whole["details"]["tokens"]]
    assert events[-1]["generated_text"] == whole["generated_text"]
    assert events[-1]["details"]["generated_tokens"] == 30


def test_the_server_says_what_the_engine_says_without_it(server: ServerProcess, model: Path) -> None:
    (alone,) = LLM(str(model), device="cpu", kv_cache_memory="2MB", num_threads=1).generate(
        "Once upon", SamplingParams(max_new_tokens=30)
    )
    whole = generate(server, "Once upon", max_new_tokens=30)
    assert whole["generated_text"] == alone.text
    assert [token["id"] for token in whole["details"]["tokens"]] == list(alone.token_ids)


def test_a_seed_gives_the_same_text_alone_and_among_15_others(server: ServerProcess) -> None:
    alone = generate(server, "Once upon", max_new_tokens=20, do_sample=True, seed=42)
    with ThreadPoolExecutor(16) as threads:
        replies = list(
            threads.map(
                lambda index: generate(
                    server,
                    "Once upon" if index == 7 else f"Other {index}",
                    max_new_tokens=20,
                    do_sample=True,
                    seed=42 if index == 7 else index,
                ),
                range(16),
            )
        )
    assert replies[7]["generated_text"] == alone["generated_text"]


def test_a_cancelled_stream_frees_its_blocks(server: ServerProcess) -> None:
    body = {"inputs": "Once upon", "parameters": {"max_new_tokens": 2000}}
    with httpx.stream("POST", f"{server.url}/generate_stream", json=body, timeout=TIMEOUT_S) as reply:
        lines = reply.iter_lines()
        next(lines)
        assert _metric(server, "segue_kv_blocks_used") > 0
    deadline = 200
    while _metric(server, "segue_kv_blocks_used") > 0:
        deadline -= 1
        assert deadline, "the blocks of a cancelled stream are still held"
        generate(server, "x", max_new_tokens=1)


def _metric(server: ServerProcess, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def test_info_tells_the_limits(server: ServerProcess) -> None:
    info = httpx.get(f"{server.url}/info").json()
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (2047, 2048)


def test_markers_that_tooling_greps(server: ServerProcess) -> None:
    markers = (
        "Starting shard",
        "Shard ready in",
        "Starting Webserver",
        "Setting max batch total tokens to",
        "Connected",
    )
    places = [server.log.index(marker) for marker in markers]
    assert places == sorted(places)


def test_the_server_process_never_imports_torch(server: ServerProcess) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "libtorch" not in maps.read_text()
    assert "libtorch" in Path(f"/proc/{server.engine().pid}/maps").read_text()


def segue(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "segue", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT_S,
    )


def test_segue_generate(server: ServerProcess) -> None:
    expected = "".join(
        event["token"]["text"]
        for event in stream(server, "Once upon", max_new_tokens=20)
        if not event["token"]["special"]
    )
    result = segue("generate", "Once upon", "-n", "20", "--url", server.url)
    assert (result.stdout, result.stderr) == (expected + "\n", "")
    assert segue("generate", "-n", "20", "--url", server.url, stdin="Once upon").stdout == expected + "\n"


def test_segue_generate_names_the_servers_error(server: ServerProcess) -> None:
    result = segue("generate", "x", "--temperature", "0", "--url", server.url)
    assert result.returncode == 1
    assert "`temperature` must be strictly positive" in result.stderr


def test_segue_chat_remembers(server: ServerProcess) -> None:
    """Two lines of a conversation, each with an answer; the second prompt holds the first line and its answer."""
    before = _metric(server, "tgi_request_input_length_sum")
    result = segue("chat", "-n", "5", "--temperature", "0", "--url", server.url, stdin="hello\n\nand more\n")
    assert result.returncode == 0, result.stderr
    read = _metric(server, "tgi_request_input_length_sum") - before
    first = len("<user>hello<assistant>")
    assert read == first + (len("<user>hello<assistant>") + 5 + len("<user>and more<assistant>"))


def test_no_server() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in (["generate", "x"], ["chat"]):
        result = segue(*command, "--url", url)
        assert result.returncode == 1
        assert f"no server answers at {url}. Start one with `segue serve`" in result.stderr
