import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from serving import INFO, Serving, says

from segue.server.journal import _duration

Serve = Callable[..., Serving]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.5s"), (90.0, "90s"), (0.02025, "20.25ms"), (0.0000312, "31.2µs"), (0.0, "0µs"), (0.001, "1ms")],
)
def test_durations(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("path", "name", "body"),
    [
        ("/generate", "generate", {"inputs": "a", "parameters": {"top_k": 3}}),
        ("/", "generate_stream", {"inputs": "a", "stream": True, "parameters": {"top_k": 3}}),
    ],
)
async def test_L1_a_request_that_ends_well(
    serve: Serve, caplog: pytest.LogCaptureFixture, path: str, name: str, body: object
) -> None:
    caplog.set_level(logging.INFO, "segue.server")
    await serve().post(path, body)
    async with asyncio.timeout(60):
        while not (records := [each for each in caplog.records if each.name.startswith("segue.server")]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a stream's line comes a moment after its end
    [record] = records
    assert (record.levelname, record.message) == ("INFO", "Success")
    span = record.span  # type: ignore[attr-defined]
    assert list(span) == [
        "name",
        "parameters",
        "total_time",
        "validation_time",
        "queue_time",
        "inference_time",
        "time_per_token",
        "seed",
    ]
    assert span["name"] == name
    assert span["parameters"] == '{"top_k":3}'
    assert isinstance(span["seed"], int)


async def test_L1_a_request_that_fails(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segue.server")
    app = serve()
    await app.post("/generate", {"inputs": ""})
    await app.post("/v1/chat/completions", {"messages": [{"role": "bad", "content": ""}]})
    first, second = (record for record in caplog.records if record.name.startswith("segue.server"))
    assert (first.levelname, first.message) == ("ERROR", "Input validation error: `inputs` cannot be empty")
    assert second.span == {"name": "chat_completions"}  # type: ignore[attr-defined]


async def test_L1_an_error_is_one_line_whatever_the_caller_wrote(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "segue.server")
    name = "x\n2026-01-01T00:00:00Z  INFO forged" + "y" * 100_000
    body = {
        "messages": [{"role": "user", "content": "a"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"function": {"name": name}},
    }
    assert (await serve().post("/v1/chat/completions", body)).status_code == 422
    (record,) = (record for record in caplog.records if record.name.startswith("segue.server"))
    assert "x 2026-01-01T00:00:00Z  INFO forged" in record.message
    assert len(record.message) <= 2000


async def test_L1_the_prompt_is_logged_at_debug_level_only(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segue")
    secret = "a secret" + "b" * 1000
    app = serve(info=replace(INFO, max_input_tokens=1999), script=says("x"))
    await app.post("/generate", {"inputs": secret})
    assert "a secret" not in str([vars(record) for record in caplog.records if record.name.startswith("segue")])
    caplog.set_level(logging.DEBUG, "segue")
    await app.post("/generate", {"inputs": secret})
    assert f"Input: {secret[:1000]}" in [record.message for record in caplog.records]
