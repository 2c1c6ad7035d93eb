"""All of TGI's metrics of a real server, after real work."""

import asyncio
import json
import shutil
from pathlib import Path

import httpx
from e2e.server_process import TIMEOUT_S, running

MOVED = (
    *(f"tgi_request_{name}" for name in ("count", "success")),
    *(f'tgi_request_failure{{err="{kind}"}}' for kind in ("overloaded", "validation", "template", "dropped")),
    *(f"tgi_request_{name}_duration_count" for name in ("validation", "queue", "inference", "mean_time_per_token")),
    *(f"tgi_request_{name}_sum" for name in ("duration", "inference_duration", "mean_time_per_token_duration")),
    *(f"tgi_request_{name}_sum" for name in ("input_length", "max_new_tokens", "generated_tokens")),
    *("tgi_request_skipped_tokens_count", 'tgi_request_skipped_tokens_bucket{le="0"}'),
    *(f'tgi_batch_inference_{name}{{method="prefill"}}' for name in ("count", "success", "duration_sum")),
    *(f'tgi_batch_inference_{name}{{method="decode"}}' for name in ("count", "success", "duration_sum")),
    *(f'tgi_batch_{name}_duration_sum{{method="prefill"}}' for name in ("forward", "decode", "filter")),
    *(f'tgi_batch_{name}_duration_sum{{method="decode"}}' for name in ("forward", "decode", "filter", "concat")),
    *('tgi_batch_concat{reason="chunking"}', "tgi_batch_next_size_sum", "tgi_batch_max_total_tokens"),
)
"""Without a fault of the engine, which ``test_faults.py`` makes."""
RUNNING = ("tgi_batch_current_size", "tgi_batch_current_max_tokens", "tgi_queue_size", "segue_kv_blocks_used")


async def metrics_of(client: httpx.AsyncClient) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def saturate(client: httpx.AsyncClient, num_tokens: int, is_enough: asyncio.Event) -> None:
    body = {"inputs": "Once upon", "parameters": {"max_new_tokens": num_tokens}}
    while not is_enough.is_set():
        assert (await client.post("/generate", json=body)).status_code in (200, 429)


async def watch(client: httpx.AsyncClient) -> None:
    """Return when all gauges were above 0, a request joined running ones, and a request was one too many."""
    missing, is_refused = {*RUNNING, 'tgi_batch_concat{reason="chunking"}'}, False
    while missing or not is_refused:
        metrics = await metrics_of(client)
        missing -= {name for name in missing if metrics[name] > 0}
        reply = await client.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 1}})
        is_refused = is_refused or reply.status_code == 429


async def fail(client: httpx.AsyncClient) -> None:
    """Requests that are refused, and one that is given up."""
    assert (await client.post("/generate", json={"inputs": ""})).status_code == 422
    bad = {"messages": [{"role": "user", "content": "bad"}]}
    assert (await client.post("/v1/chat/completions", json=bad)).status_code == 422
    body = {"inputs": "Once upon", "parameters": {"max_new_tokens": 2000}}
    async with client.stream("POST", "/generate_stream", json=body) as reply:
        await anext(reply.aiter_lines())
    dropped = 'tgi_request_failure{err="dropped"}'
    while not (await metrics_of(client))[dropped]:
        pass


def with_template(model: Path, folder: Path) -> Path:
    """The model, with a chat template that refuses "bad"."""
    shutil.copytree(model, folder)
    config = folder / "tokenizer_config.json"
    template = "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no') }}{% endif %}a"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": template}))
    return folder


async def test_M1_every_metric_moves(model: Path, tmp_path: Path) -> None:
    options = ["--max-batch-size", "2", "--max-concurrent-requests", "4"]
    with running(tmp_path, str(with_template(model, tmp_path / "model")), *options) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client,
            asyncio.timeout(TIMEOUT_S),
            asyncio.TaskGroup() as tasks,
        ):
            is_enough = asyncio.Event()
            for num_tokens in (100, 130, 170, 210):  # one ends while another runs
                tasks.create_task(saturate(client, num_tokens, is_enough))
            await watch(client)
            is_enough.set()
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client, asyncio.timeout(TIMEOUT_S):
            await fail(client)
            after = await metrics_of(client)
            while any(after[name] for name in RUNNING):
                after = await metrics_of(client)
        assert server.stop() == 0
    assert not [name for name in MOVED if not after[name] > 0]
