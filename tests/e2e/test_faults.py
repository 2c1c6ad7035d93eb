"""The engine's process killed, or stopped without ending, under many streams."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from e2e.server_process import TIMEOUT_S, ServerProcess, running

NUM_STREAMS = 64


class Streams:
    """Streams of one server, read side by side."""

    def __init__(self, client: httpx.AsyncClient, num_streams: int) -> None:
        self.client = client
        self.has_begun = [asyncio.Event() for _ in range(num_streams)]
        self.tasks = [asyncio.create_task(self._read(number)) for number in range(num_streams)]

    async def _read(self, number: int) -> list[Any]:
        body = {"inputs": f"Once upon {number}", "parameters": {"max_new_tokens": 1900}}
        events = []
        async with self.client.stream("POST", "/generate_stream", json=body) as reply:
            async for line in reply.aiter_lines():
                if line:
                    events.append(json.loads(line.removeprefix("data:")))
                    self.has_begun[number].set()
        return events


@asynccontextmanager
async def streaming(server: ServerProcess, num_streams: int) -> AsyncIterator[Streams]:
    """All streams have begun."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S, limits=limits) as client:
        streams = Streams(client, num_streams)
        async with asyncio.timeout(TIMEOUT_S):
            for event in streams.has_begun:
                await event.wait()
            yield streams


def check_ends(events: list[Any]) -> None:
    """Tokens, then TGI's error, then nothing."""
    *tokens, last = events
    assert tokens
    assert all("token" in event for event in tokens)
    assert set(last) == {"error", "error_type"}
    assert last["error_type"] == "generation"
    assert last["error"].startswith("Request failed during generation: Server error: ")


def check_serves_again(server: ServerProcess, old: psutil.Process) -> None:
    server.wait_healthy()
    body = {"inputs": "x", "parameters": {"max_new_tokens": 3}}
    assert httpx.post(f"{server.url}/generate", json=body, timeout=TIMEOUT_S).status_code == 200
    assert server.engine().pid != old.pid
    metrics = httpx.get(f"{server.url}/metrics").text.splitlines()
    assert f'tgi_request_failure{{err="generation"}} {NUM_STREAMS}' in metrics
    assert 'tgi_batch_inference_failure{method="decode"} 1' in metrics
    assert "segue_kv_blocks_used 0" in metrics


async def test_Q7_every_stream_hears_of_a_killed_engine(model: Path, tmp_path: Path) -> None:
    """And from the first error on the server says that it cannot serve, until it can."""
    with running(tmp_path, str(model)) as server:
        old = server.engine()
        async with streaming(server, NUM_STREAMS) as streams:
            old.kill()
            await asyncio.wait(streams.tasks, return_when=asyncio.FIRST_COMPLETED)
            reply = await streams.client.get("/health")
            assert (reply.status_code, reply.json()["error_type"]) == (503, "healthcheck")
            for events in await asyncio.gather(*streams.tasks):
                check_ends(events)
        check_serves_again(server, old)
        assert server.stop() == 0


async def test_Q7_an_engine_that_lives_but_hangs_is_replaced(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model), "--engine-timeout", "5") as server:
        old = server.engine()
        async with streaming(server, NUM_STREAMS) as streams:
            old.send_signal(signal.SIGSTOP)
            for events in await asyncio.gather(*streams.tasks):
                check_ends(events)
        check_serves_again(server, old)
        assert "Shard 0 has not answered for 5 s, it is ended" in server.log
        assert server.stop() == 0
