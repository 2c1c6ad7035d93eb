"""Traces of a server as a user starts it."""

from pathlib import Path

import httpx
from e2e.server_process import TIMEOUT_S, running
from otlp_collector import Collector


async def test_T1_a_request_and_its_engines_times(model: Path, tmp_path: Path) -> None:
    """Sent at the latest when the server ends."""
    collector = Collector()
    options = ["--otlp-endpoint", collector.endpoint, "--otlp-service-name", "my-service"]
    with running(tmp_path, str(model), *options) as server:
        body = {"inputs": "Once upon", "parameters": {"max_new_tokens": 20}}
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
            assert (await client.post("/generate", json=body)).status_code == 200
        assert server.stop() == 0
        assert "Traces cannot" not in server.log
        tree = await collector.trace()
    collector.server.stop(None).wait()
    assert {span.service for span in tree.spans} == {"my-service"}
    assert tree.one("decode").attributes == {"generated_tokens": 20}
    prefill, decode, infer = (tree.one(name).proto for name in ("prefill", "decode", "infer"))
    assert infer.start_time_unix_nano == prefill.start_time_unix_nano < prefill.end_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano < decode.end_time_unix_nano


def test_T1_a_collector_that_is_not_there(model: Path, tmp_path: Path) -> None:
    with running(tmp_path, str(model), "--otlp-endpoint", "http://127.0.0.1:1") as server:
        for number in range(20):
            body = {"inputs": f"Once upon {number}", "parameters": {"max_new_tokens": 3}}
            assert httpx.post(f"{server.url}/generate", json=body, timeout=TIMEOUT_S).status_code == 200
        assert server.stop() == 0
        assert server.log.count("Traces cannot be exported") <= 1
        assert server.log.count("WARN") <= 1
        assert server.errors == ""
