"""Streams of a whole server, whose tokens take the short way, and of one without it; what goes wrong in the middle."""

import asyncio
import contextlib
import json
import multiprocessing
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from fakes import FakeRunner
from serving import CHAT_TEMPLATE, EOS, INFO, byte_tokenizer, echo, id_of, ids_of
from tokenizers import AddedToken

from segue.core.config import ServeConfig
from segue.core.output import EngineStep, FinishReason, RequestOutput, StepStats, TokenOutput
from segue.core.request import AbortRequests, Request
from segue.engine.channel import FrameReader, framed
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.engine_process import run_engine_loop
from segue.engine.ipc import Heartbeat, Hello, Message, decode, encode
from segue.engine.remote import RemoteEngine
from segue.launcher.http_server import HTTPServer
from segue.launcher.limited_protocol import ConnectionLimits
from segue.server import token_lane
from segue.server.app import build_app
from segue.server.generation import Generation, Token
from segue.server.state import ServedModel
from segue.server.token_lane import LaneTokens, Way, new_lane
from segue.text.chat_template import ChatTemplate
from segue.text.tokenizer import Tokenizer

pytest.importorskip("segue.server.native._lane")

TIMEOUT_S = 60
LONG_TEXT = "long " * 10_000
LONG = INFO.vocab_size
"""The token that is such a text."""
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return byte_tokenizer(folder, [AddedToken(LONG_TEXT, normalized=False)])


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Runs a test on each kind of event loop: their connections keep what waits to be sent in different ways."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:

        def run(test: Coroutine[Any, Any, None]) -> None:
            runner.run(asyncio.wait_for(test, 2 * TIMEOUT_S))

        yield run


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of tokens that streams got in the lane."""
    numbers: list[int] = []
    leave = Way.leave

    def counting_leave(way: Way) -> LaneTokens | None:
        tokens = leave(way)
        if tokens is not None:
            numbers.append(len(tokens.ids))
        return tokens

    monkeypatch.setattr(token_lane.Way, "leave", counting_leave)
    return numbers


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[list[Token]]:
    """The tokens of streams that came to their end."""
    generations: list[list[Token]] = []
    record = Generation.record_success

    def keeping_record(generation: Generation) -> None:
        generations.append(list(generation.tokens))
        assert len(generation.tokens) == generation.num_tokens
        record(generation)

    monkeypatch.setattr(Generation, "record_success", keeping_record)
    return generations


@dataclass
class Running:
    """A server at ``url``."""

    url: str
    address: tuple[str, int]
    lane: Any
    http: httpx.AsyncClient

    async def metrics(self) -> dict[str, str]:
        lines = (await self.http.get("/metrics")).text.splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))  # type: ignore[misc]

    async def until_metric(self, name: str, value: str) -> None:
        while (await self.metrics())[name] != value:  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # nothing says when it is counted


@asynccontextmanager
async def serving(tokenizer: Tokenizer, endpoint: str, *, has_lane: bool = True) -> AsyncIterator[Running]:
    """A server of the engine at ``endpoint``."""
    lane = new_lane() if has_lane else None
    handle = RemoteEngine(endpoint, lane=lane)
    await handle.connect(TIMEOUT_S)
    template = ChatTemplate(CHAT_TEMPLATE, bos_token="<s>", eos_token="</s>")
    app = build_app(
        ServeConfig(), handle, ServedModel(model_id="test/model", tokenizer=tokenizer, chat_template=template)
    )
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = HTTPServer(app, listener, limits=ConnectionLimits())
    task = asyncio.create_task(server.run())
    await server.started.wait()
    url = f"http://127.0.0.1:{address[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as http:
            yield Running(url, address, lane, http)
    finally:
        await handle.close()
        server.stop()
        await task


# With the lane and without it


def serve_echo(endpoint: str) -> None:
    """The body of an engine process that says what it is told."""
    runner = FakeRunner(block_size=INFO.block_size, next_token=echo)
    engine = Engine(EngineConfig(num_blocks=INFO.num_blocks, block_size=INFO.block_size), runner)
    run_engine_loop(engine, INFO, endpoint)


@contextlib.contextmanager
def engine_process(endpoint: str) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(target=serve_echo, args=(endpoint,))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()
        process.close()


def some_texts(count: int) -> list[str]:
    """With characters of 2 to 4 bytes here and there, of which each is a token."""
    draw = random.Random(0)
    alphabet = 'abc "\\\n\t' * 8 + "éß€あ😀"
    return ["".join(draw.choices(alphabet, k=draw.randint(1, 150))) for _ in range(count)]


PATHS: dict[str, Callable[[str], Any]] = {
    "/generate_stream": lambda text: {"inputs": text, "parameters": {"max_new_tokens": 200}},
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 200, "stream": True, "temperature": 0},
    "/v1/chat/completions": lambda text: {
        "messages": [{"role": "user", "content": text}], "max_tokens": 200, "stream": True, "temperature": 0,
    },
}  # fmt: skip


async def answers(server: Running) -> dict[str, list[str]]:
    """Of all paths, many at once. What hangs on the time is taken out."""
    found = {}
    for path, body in PATHS.items():
        replies = await asyncio.gather(*(server.http.post(path, json=body(text)) for text in some_texts(40)))
        assert {reply.status_code for reply in replies} == {200}
        found[path] = [
            re.sub(r'"(id|created)":("[^"]*"|\d+)(?=,"(model|created|object|choices))', "", reply.text)
            for reply in replies
        ]
    return found


def test_the_answers_are_the_same(
    tokenizer: Tokenizer, tmp_path: Path, run: Any, taken: list[int], ended: list[list[Token]]
) -> None:
    async def test() -> None:
        async with serving(tokenizer, endpoint, has_lane=False) as server:
            expected = await answers(server)
        assert taken == []
        tokens = sorted(ended, key=repr)
        ended.clear()
        async with serving(tokenizer, endpoint) as server:
            for path, replies in (await answers(server)).items():
                for reply, without_lane in zip(replies, expected[path], strict=True):
                    assert reply == without_lane
            assert len(server.lane) == 0
        assert len(taken) > 0
        assert sorted(ended, key=repr) == tokens

    endpoint = f"ipc://{tmp_path}/engine"
    with engine_process(endpoint):
        run(test())


# An engine whose steps are the test's


class EngineByHand:
    """The engine's end of the socket, in the loop of the test."""

    def __init__(self, path: Path) -> None:
        self.endpoint = f"ipc://{path}"
        self._path = path
        self.requests: list[Request] = []
        self.aborted: list[int] = []
        self._news = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "EngineByHand":
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.die()

    def die(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        frames = FrameReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for frame in frames.feed(data):
                    self._hear(decode(frame))
        writer.close()

    def _hear(self, message: Message) -> None:
        match message:
            case Hello():
                self.send(INFO)
            case Heartbeat():
                self.send(message)
            case Request():
                self.requests.append(message)
            case AbortRequests():
                self.aborted += message.request_ids
        self._news.set()

    def send(self, *messages: Message) -> None:
        """In one piece."""
        assert self._writer is not None
        self._writer.write(b"".join(framed(encode(message)) for message in messages))

    def step(self, *outputs: RequestOutput) -> None:
        self.send(a_step(*outputs))

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()


def a_step(*outputs: RequestOutput) -> EngineStep:
    stats = StepStats(num_running=len(outputs), num_scheduled_tokens=1, num_decode_sequences=1, num_total_blocks=256)
    return EngineStep(outputs=outputs, stats=stats)


def output(request: Request, *ids: int, ends: bool = False, is_first: bool = False) -> RequestOutput:
    return RequestOutput(
        request_id=request.request_id,
        tokens=tuple(TokenOutput(each, -0.5) for each in ids),
        finish_reason=FinishReason.LENGTH if ends else None,
        scheduled_time=0.0 if is_first else None,
    )


@dataclass
class Client:
    """One stream, over a connection that it reads when it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Request
    tokens: list[str] = field(default_factory=list)
    end: Any = None
    """The last event's ``generated_text``, or the event of an error."""

    async def read(self, count: int = 1 << 30) -> list[str]:
        """The texts of so many more tokens; less where the stream ends."""
        wanted = len(self.tokens) + count
        while len(self.tokens) < wanted and self.end is None:
            size = int(await self.reader.readline(), 16)
            body = await self.reader.readexactly(size)
            await self.reader.readline()
            for event in body.split(b"\n\n")[:-1]:
                self._take(json.loads(event.removeprefix(b"data:")))
        return self.tokens

    def _take(self, event: Any) -> None:
        if "error" in event:
            self.end = event
            return
        assert event["index"] == len(self.tokens) + 1
        self.tokens.append(event["token"]["text"])
        self.end = event["generated_text"]

    def leave(self) -> None:
        self.writer.close()


@asynccontextmanager
async def streaming(server: Running, engine: EngineByHand, count: int = 1) -> AsyncIterator[list[Client]]:
    """Clients that have each read one token, "1"."""
    clients: list[Client] = []
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, server.address)
        reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 14)
        body = json.dumps({"inputs": "a", "parameters": {"max_new_tokens": 1900}}).encode()
        head = (
            b"POST /generate_stream HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        )
        num_requests = len(engine.requests)
        writer.write(head % len(body) + body)
        await engine.until(lambda: len(engine.requests) > num_requests)  # noqa: B023
        client = Client(reader, writer, engine.requests[-1])
        clients.append(client)
        engine.step(output(client.request, id_of(ord("1")), is_first=True))
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await client.read(1) == ["1"]
    try:
        yield clients
    finally:
        for client in clients:
            client.leave()


@asynccontextmanager
async def stage(
    tokenizer: Tokenizer, endpoint: Path, count: int = 1, *, has_lane: bool = True
) -> AsyncIterator[tuple[EngineByHand, Running, list[Client]]]:
    """An engine by hand, a server of it, and clients as ``streaming`` has them."""
    async with (
        EngineByHand(endpoint) as engine,
        serving(tokenizer, engine.endpoint, has_lane=has_lane) as server,
        streaming(server, engine, count) as clients,
    ):
        yield engine, server, clients


def test_the_tokens_and_the_metrics_are_the_same(
    tokenizer: Tokenizer, tmp_path: Path, run: Any, taken: list[int]
) -> None:
    """Of the same steps, some with several tokens, some with a part of a character."""

    async def metrics(has_lane: bool) -> tuple[dict[str, str], list[str]]:
        async with stage(tokenizer, tmp_path / f"engine{has_lane}", 2, has_lane=has_lane) as (
            engine,
            server,
            (first, second),
        ):
            for number in range(150):
                a, b = first.request, second.request
                engine.step(output(a, *ids_of("abc"[: number % 4])), output(b, *ids_of("é")[number % 2 :][:1]))
                await asyncio.gather(first.read(number % 4), second.read(1))
            engine.step(output(first.request, EOS, ends=True), output(second.request, EOS, ends=True))
            await asyncio.gather(first.read(), second.read())
            assert first.end == "1" + "".join("abc"[: number % 4] for number in range(150))
            await server.until_metric("tgi_request_success", "2")
            own = {
                name: value
                for name, value in (await server.metrics()).items()
                if "duration" not in name and "seconds" not in name and "queue" not in name
            }
            return own, second.tokens

    async def test() -> None:
        expected, texts = await metrics(False)
        assert float(expected["tgi_request_skipped_tokens_count"]) > 200
        assert float(expected['tgi_batch_inference_count{method="decode"}']) == 153
        assert texts == ["1", *["", "é"] * 75, "</s>"]
        assert taken == []
        assert await metrics(True) == (expected, texts)
        assert sum(taken) > 100

    run(test())


def test_metrics_while_tokens_come(tokenizer: Tokenizer, tmp_path: Path, run: Any) -> None:
    """Steps that the lane served whole are counted when somebody asks."""

    async def test() -> None:
        async with stage(tokenizer, tmp_path / "engine") as (engine, server, (client,)):
            for _ in range(10):
                engine.step(output(client.request, *ids_of("a")))
            await client.read(10)
            assert (await server.metrics())['tgi_batch_inference_count{method="decode"}'] == "11"

    run(test())


def test_a_client_that_does_not_read_loses_nothing(
    tokenizer: Tokenizer, tmp_path: Path, run: Any, taken: list[int]
) -> None:
    """It is out of the lane, and the one beside it does not notice."""

    async def test() -> None:
        async with stage(tokenizer, tmp_path / "engine", 2) as (engine, server, (slow, quick)):
            num_tokens = 1
            while len(server.lane) == 2 or num_tokens < 100:
                engine.step(output(slow.request, LONG), output(quick.request, id_of(ord("q"))))
                num_tokens += 1
                await quick.read(1)
            # Its outputs wait, no text is made of them.
            for _ in range(20):
                engine.step(output(slow.request, LONG), output(quick.request, id_of(ord("q"))))
            num_tokens += 20
            await quick.read(20)
            assert (len(server.lane), len(quick.tokens)) == (1, num_tokens)
            await slow.read(num_tokens - 1)
            engine.step(output(slow.request, *ids_of("x")), output(quick.request, *ids_of("q")))
            engine.step(output(slow.request, *ids_of("y")), output(quick.request, *ids_of("q")))
            engine.step(output(slow.request, EOS, ends=True), output(quick.request, EOS, ends=True))
            await asyncio.gather(slow.read(), quick.read())
            assert slow.tokens == ["1", *[LONG_TEXT] * (num_tokens - 1), "x", "y", "</s>"]
            assert quick.tokens == ["1", *["q"] * (num_tokens + 1), "</s>"]
            assert slow.end == "1" + LONG_TEXT * (num_tokens - 1) + "xy"
            assert len(server.lane) == 0
            await server.until_metric("tgi_request_success", "2")
        assert sum(taken) > len(quick.tokens) - 2

    run(test())


def test_H10_a_client_that_leaves_in_the_middle(tokenizer: Tokenizer, tmp_path: Path, run: Any) -> None:
    async def test() -> None:
        async with stage(tokenizer, tmp_path / "engine", 2) as (engine, server, (leaving, staying)):
            engine.step(output(leaving.request, *ids_of("a")), output(staying.request, *ids_of("b")))
            await asyncio.gather(leaving.read(1), staying.read(1))
            assert len(server.lane) == 2
            leaving.leave()
            await engine.until(lambda: len(engine.aborted) > 0)
            assert engine.aborted == [leaving.request.request_id]
            assert len(server.lane) == 1
            engine.step(output(leaving.request, *ids_of("c")), output(staying.request, *ids_of("d")))
            engine.step(output(staying.request, EOS, ends=True))
            assert await staying.read() == ["1", "b", "d", "</s>"]
            assert len(server.lane) == 0
            await server.until_metric('tgi_request_failure{err="dropped"}', "1")

    run(test())


def test_an_engine_that_dies_in_the_middle(tokenizer: Tokenizer, tmp_path: Path, run: Any) -> None:
    async def test() -> None:
        async with stage(tokenizer, tmp_path / "engine", 2) as (engine, server, clients):
            engine.send(*(a_step(*(output(client.request, *ids_of("a")) for client in clients)) for _ in range(5)))
            engine.die()
            for client in clients:
                assert await client.read() == ["1", *["a"] * 5]
                assert client.end == {
                    "error": "Request failed during generation: Server error: engine process ended unexpectedly",
                    "error_type": "generation",
                }
            assert len(server.lane) == 0
            metrics = await server.metrics()
            assert metrics['tgi_request_failure{err="generation"}'] == "2"
            assert metrics["tgi_request_skipped_tokens_count"] == "12"
            assert metrics['tgi_batch_inference_success{method="decode"}'] == "7"

    run(test())


def test_a_stream_that_fails_in_the_middle(tokenizer: Tokenizer, tmp_path: Path, run: Any) -> None:
    async def test() -> None:
        async with stage(tokenizer, tmp_path / "engine", 2) as (engine, server, (failing, other)):
            engine.send(
                a_step(output(failing.request, *ids_of("a")), output(other.request, *ids_of("b"))),
                a_step(
                    RequestOutput(request_id=failing.request.request_id, error="boom"),
                    output(other.request, *ids_of("c")),
                ),
                a_step(output(other.request, EOS, ends=True)),
            )
            assert await failing.read() == ["1", "a"]
            assert failing.end["error"] == "Request failed during generation: boom"
            assert await other.read() == ["1", "b", "c", "</s>"]
            assert len(server.lane) == 0

    run(test())
