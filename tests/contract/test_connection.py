"""What only a real connection shows."""

import asyncio
import json

import httpx
from serving import RunningServer


async def until_idle(server: RunningServer) -> None:
    async with asyncio.timeout(20):
        while server.stats.num_used_blocks or server.stats.num_running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def metric(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.rsplit(" ", 1)[0] == name]
    return float(line.rsplit(" ", 1)[1])


def headers(server: RunningServer) -> dict[str, str]:
    return {"authorization": f"Bearer {server.api_key}"}


async def test_H10_a_cancelled_stream_frees_its_blocks(server: RunningServer) -> None:
    body = {"inputs": "endless", "parameters": {"max_new_tokens": 1900}}
    async with httpx.AsyncClient(base_url=server.url, headers=headers(server)) as client:
        async with client.stream("POST", "/generate_stream", json=body) as reply:
            events = reply.aiter_lines()
            assert json.loads((await anext(events))[6:])["index"] == 1
            running = (await client.get("/metrics")).text
            assert metric(running, "segue_kv_blocks_used") > 0
            assert metric(running, "tgi_batch_current_size") == 1
        await until_idle(server)
        after = (await client.get("/metrics")).text
    assert metric(after, "segue_kv_blocks_used") == 0
    assert metric(after, "tgi_batch_current_size") == 0
    assert metric(after, 'tgi_request_failure{err="dropped"}') >= 1


async def test_H10_a_cancelled_answer_frees_its_blocks(server: RunningServer) -> None:
    body = {"inputs": "endless", "parameters": {"max_new_tokens": 1900}}
    async with httpx.AsyncClient(base_url=server.url, headers=headers(server)) as client:
        task = asyncio.ensure_future(client.post("/generate", json=body))
        async with asyncio.timeout(20):
            while not server.stats.num_running:  # noqa: ASYNC110
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await until_idle(server)


async def test_many_connections_at_once(server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers=headers(server)) as client:
        prompts = [f"prompt number {number}" for number in range(8)]
        replies = await asyncio.gather(*(client.post("/generate", json={"inputs": prompt}) for prompt in prompts))
    assert [reply.json()["generated_text"] for reply in replies] == prompts


async def test_H3_H4_bodies_over_a_socket(server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers=headers(server)) as client:
        assert (await client.post("/generate", content=b"{}")).status_code == 415
        big = {"inputs": "a" * 2_000_000}
        assert (await client.post("/generate", json=big)).status_code == 413
        assert (await client.post("/generate", json={"inputs": 1})).status_code == 422
        assert (await client.post("/generate", json={"inputs": "still here"})).status_code == 200
