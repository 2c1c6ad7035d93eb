"""Real servers in this process: uvicorn on a loopback port, the application, the engine in a thread."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import uvloop
from fakes import FakeRunner
from serving import CHAT_TEMPLATE, INFO, RunningServer, byte_tokenizer, echo, is_boom
from starlette.types import ASGIApp

from segue.core.batch import ScheduledBatch, StepOutput
from segue.core.config import ServeConfig
from segue.core.output import EngineInfo
from segue.core.request import Request
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.handle import RequestStream
from segue.engine.local import LocalEngine
from segue.sampling.grammar_compiler import GrammarCompiler
from segue.server.app import build_app
from segue.server.state import ServedModel
from segue.text.chat_template import ChatTemplate
from segue.text.tokenizer import Tokenizer

__all__ = ["TIMEOUT_S", "GatedRunner", "LiveServer", "fake_server", "listening", "model_server"]

TIMEOUT_S = 60.0
"""Of one request; far more than is needed on a busy machine."""


class CountingEngine(LocalEngine):
    """Knows how many requests were handed to it."""

    def __init__(self, engine: Engine, info: EngineInfo) -> None:
        self.num_submitted = 0
        super().__init__(engine, info)

    def submit(self, request: Request) -> RequestStream:
        self.num_submitted += 1
        return super().submit(request)


class GatedRunner(FakeRunner):
    """Executes nothing while it is held."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._gate = threading.Event()
        self._gate.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        assert self._gate.wait(TIMEOUT_S)
        return super().execute(batch)


@dataclass(kw_only=True)
class LiveServer(RunningServer):
    """A server with its inside in sight."""

    engine: CountingEngine
    batches: list[ScheduledBatch] = field(default_factory=list)
    """Every batch that the runner was given, where it is a ``FakeRunner``."""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=TIMEOUT_S)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=TIMEOUT_S)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def generate(self, inputs: str, **parameters: Any) -> dict[str, Any]:
        """The reply of ``/generate`` with its details."""
        reply = self.post("/generate", {"inputs": inputs, "parameters": {"details": True, **parameters}})
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer

    def metric(self, name: str) -> float:
        """A sample by its name and labels as ``/metrics`` writes them."""
        lines = self.http.get("/metrics").text.splitlines()
        [value] = [line.rsplit(" ", 1)[1] for line in lines if line.rsplit(" ", 1)[0] == name]
        return float(value)

    async def until_submitted(self, count: int) -> None:
        """Until the engine was handed so many requests since the server started."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.engine.num_submitted < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def until_idle(self) -> None:
        """Until nothing runs and no block is held."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.stats.num_used_blocks or self.stats.num_running or self.stats.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serves ``app``; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        http = uvicorn.Server(uvicorn.Config(app, http="httptools", log_config=None, access_log=False, lifespan="on"))

        def serve() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(http.serve(sockets=[listener]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        http.should_exit = True
        thread.join()


@contextmanager
def fake_server(
    folder: Path,
    *,
    runner: FakeRunner | None = None,
    engine: EngineConfig | None = None,
    info: EngineInfo = INFO,
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = CHAT_TEMPLATE,
    has_grammars: bool = False,
    **options: Any,
) -> Iterator[LiveServer]:
    """Without a model: says the prompt again, and fails at "boom". ``options`` are those of ``ServeConfig``.

    ``has_grammars``: they are compiled, though what the runner says does not follow them.
    """
    runner = runner or FakeRunner(next_token=echo, fails=is_boom)
    engine_config = engine or EngineConfig(num_blocks=info.num_blocks, block_size=info.block_size)
    num_slots = engine_config.num_blocks * engine_config.block_size
    info = replace(info, num_blocks=engine_config.num_blocks, max_total_tokens=min(info.max_total_tokens, num_slots))
    tokenizer = tokenizer or byte_tokenizer(folder)
    model = ServedModel(
        model_id="test/model",
        tokenizer=tokenizer,
        chat_template=chat_template and ChatTemplate(chat_template, bos_token="<s>", eos_token="</s>"),
    )
    compiler = GrammarCompiler(tokenizer.to_json, info.vocab_size, info.eos_token_ids) if has_grammars else None
    with _serving(ServeConfig(**options), Engine(engine_config, runner, compiler), info, model) as server:
        server.batches = runner.batches
        yield server


@contextmanager
def model_server(folder: Path, **options: Any) -> Iterator[LiveServer]:
    """A checkpoint, put together as the launcher does it."""
    import torch

    from segue.launcher.download import ModelSource
    from segue.launcher.engine_child import build_engine
    from segue.launcher.processes import load_text

    options = {"device": "cpu", "kv_cache_memory": 16 << 20, **options}
    config = ServeConfig(model_id=str(folder), **options)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        engine, info = build_engine(config, folder)
        model = load_text(config, ModelSource(folder=folder, model_id=str(folder)))
        yield stack.enter_context(_serving(config, engine, info, model))


@contextmanager
def _serving(config: ServeConfig, engine: Engine, info: EngineInfo, model: ServedModel) -> Iterator[LiveServer]:
    with CountingEngine(engine, info) as handle, listening(build_app(config, handle, model)) as url:
        key = config.api_key[0] if config.api_key else ""
        server = LiveServer(url, key, config.max_concurrent_requests, engine=handle)
        handle.on_step.append(lambda stats: setattr(server, "stats", stats))
        yield server
        server.http.close()
