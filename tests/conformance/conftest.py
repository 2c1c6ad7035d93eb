"""Servers to check: one that answers in TGI's shapes, and Segue's own with an engine that says what it is told to."""

import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from client.tgi_server import TgiServer
from serving import Serving, byte_tokenizer, says

from segue.conformance.lab import Target


@pytest.fixture
def server() -> Iterator[TgiServer]:
    with TgiServer() as running:
        yield running


@pytest.fixture(scope="session")
def segue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    serving = Serving(byte_tokenizer(tmp_path_factory.mktemp("bytes") / "tokenizer"), script=says("hello"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(serving.app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        yield Target(f"http://127.0.0.1:{listener.getsockname()[1]}", "test/model")
        running.should_exit = True
        thread.join()
