"""The models that ship with Segue, served by their names."""

from pathlib import Path

import httpx
from e2e.server_process import TIMEOUT_S, running


def test_chat_is_the_default(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert httpx.get(f"{server.url}/info").json()["model_id"] == "sample-chat"
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 40}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=TIMEOUT_S).json()
        assert reply["choices"][0]["message"]["content"].strip()
        assert server.stop() == 0


def test_t5(tmp_path: Path) -> None:
    with running(tmp_path, "sample-t5") as server:
        assert httpx.get(f"{server.url}/info").json()["model_id"] == "sample-t5"
        body = {"inputs": "summarize: Tom went to the shop. He bought an apple.", "parameters": {"max_new_tokens": 20}}
        reply = httpx.post(f"{server.url}/generate", json=body, timeout=TIMEOUT_S).json()
        assert reply["generated_text"].strip()
        assert server.stop() == 0
