"""A real server on a loopback port: uvicorn, the application, an engine without a model that says the prompt again."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import uvicorn
from fakes import FakeRunner
from serving import CHAT_TEMPLATE, INFO, RunningServer, byte_tokenizer, echo, is_boom

from segue.core.config import ServeConfig
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.local import LocalEngine
from segue.server.app import build_app
from segue.server.state import ServedModel
from segue.text.chat_template import ChatTemplate

_CONFIG = EngineConfig(num_blocks=256, block_size=16)
API_KEY = "contract-key"
MAX_CONCURRENT_REQUESTS = 8


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    tokenizer = byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    info = replace(INFO, num_blocks=_CONFIG.num_blocks)
    model = ServedModel(
        model_id="test/model",
        tokenizer=tokenizer,
        chat_template=ChatTemplate(CHAT_TEMPLATE, bos_token="<s>", eos_token="</s>"),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    with LocalEngine(Engine(_CONFIG, FakeRunner(next_token=echo, fails=is_boom)), info) as engine:
        app = build_app(ServeConfig(api_key=(API_KEY,), max_concurrent_requests=MAX_CONCURRENT_REQUESTS), engine, model)
        running = RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", API_KEY, MAX_CONCURRENT_REQUESTS)
        engine.on_step.append(lambda stats: setattr(running, "stats", stats))
        http = uvicorn.Server(uvicorn.Config(app, http="httptools", log_config=None, access_log=False, lifespan="on"))
        thread = threading.Thread(target=lambda: asyncio.run(http.serve(sockets=[listener])), daemon=True)
        thread.start()
        yield running
        http.should_exit = True
        thread.join()
