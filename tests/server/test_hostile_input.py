"""What should not be sent, over real connections: a clear error in bounded time, never a 500, never a leaked block.

Hostile grammars need a model's vocabulary: ``tests/e2e/test_hostile_grammars.py``.
"""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import FakeRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import CHAT_TEMPLATE, INFO, byte_tokenizer, echo, id_of, ids_of

from segue.core.batch import ScheduledBatch, ScheduledSequence, StepOutput
from segue.core.config import ServeConfig
from segue.core.output import StepStats, TokenOutput
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.local import LocalEngine
from segue.launcher.http_server import HTTPServer
from segue.launcher.limited_protocol import ConnectionLimits
from segue.server.app import build_app
from segue.server.state import ServedModel
from segue.text.chat_template import ChatTemplate
from segue.text.tokenizer import Tokenizer

TIMEOUT_S = 60.0
"""Bounded, on a machine of any load: nothing here takes more than some tens of milliseconds by itself."""
MAX_HEAD_BYTES = 4096
SMALL_BUFFER = 4096
LONG = 200_000
"""Tokens of an answer that no buffer of a connection holds, and that takes minutes."""
CHAT = {"messages": [{"role": "user", "content": "a"}]}
GOOD: dict[str, dict[str, Any]] = {
    "/": {"inputs": "a"},
    "/generate": {"inputs": "a"},
    "/generate_stream": {"inputs": "a"},
    "/tokenize": {"inputs": "a"},
    "/v1/chat/completions": CHAT,
    "/chat_tokenize": CHAT,
    "/v1/completions": {"prompt": "a"},
    "/v1/responses": {"input": "a"},
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/v1/messages/count_tokens": CHAT,
    "/invocations": {"inputs": "a"},
    "/vertex": {"instances": [{"inputs": "a"}]},
    "/v2/models/m/versions/1/infer": {
        "id": "1",
        "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [97]}],
        "outputs": [{"name": "y"}],
    },
}


@dataclass
class Victim:
    """A server, and what its engine last reported."""

    address: tuple[str, int]
    stats: StepStats

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    async def post(self, path: str, body: bytes) -> httpx.Response:
        headers = {"content-type": "application/json"}
        async with httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, verify=False) as client:
            return await client.post(path, content=body, headers=headers)

    async def until_idle(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.stats.num_used_blocks or self.stats.num_running or self.stats.num_waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def check_unharmed(self) -> None:
        """It serves, and holds nothing for anybody."""
        reply = await self.post("/generate", b'{"inputs":"still here"}')
        assert (reply.status_code, reply.json()["generated_text"]) == (200, "still here")
        await self.until_idle()


class Talker:
    """A runner that says the prompt again; one that begins with "much" is answered without an end, at some pace."""

    def execute(self, batch: ScheduledBatch) -> StepOutput:
        due = [sequence for sequence in batch.sequences if sequence.needs_token]
        return StepOutput(tokens={sequence.seq_id: (TokenOutput(self._next(sequence), -0.5),) for sequence in due})

    def _next(self, sequence: ScheduledSequence) -> int:
        if list(sequence.history[1:5]) == ids_of("much"):
            time.sleep(0.001)
            return id_of(ord("x"))
        return echo(sequence)


@contextmanager
def serving(tokenizer: Tokenizer, limits: ConnectionLimits, **options: Any) -> Iterator[Victim]:
    config = EngineConfig(num_blocks=2 * LONG // 16, block_size=16)
    info = replace(INFO, num_blocks=config.num_blocks, max_total_tokens=LONG + 100, max_batch_total_tokens=2 * LONG)
    model = ServedModel(
        model_id="test/model",
        tokenizer=tokenizer,
        chat_template=ChatTemplate(CHAT_TEMPLATE, bos_token="<s>", eos_token="</s>"),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)  # its connections have it too
    with LocalEngine(Engine(config, Talker()), info) as engine:
        app = build_app(replace(ServeConfig(), **options), engine, model)
        victim = Victim(listener.getsockname(), StepStats())
        engine.on_step.append(lambda stats: setattr(victim, "stats", stats))
        server = HTTPServer(app, listener, limits=limits)
        thread = threading.Thread(target=lambda: asyncio.run(server.run()), daemon=True)
        thread.start()
        yield victim
        server.force_stop()
        thread.join()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return byte_tokenizer(folder)


@pytest.fixture(scope="module")
def victim(tokenizer: Tokenizer) -> Iterator[Victim]:
    with serving(tokenizer, ConnectionLimits(max_head_bytes=MAX_HEAD_BYTES)) as victim:
        yield victim


# Bodies

BODIES: dict[str, tuple[Callable[[dict[str, Any]], bytes], set[int]]] = {
    "nothing": (lambda good: b"", {400}),
    "null": (lambda good: b"null", {422}),
    "a number": (lambda good: str(10**400).encode(), {422}),
    "bytes that are no UTF-8": (lambda good: json.dumps(good).encode().replace(b'"a"', b'"\xff\xfe"'), {400, 422}),
    "half a surrogate": (lambda good: json.dumps(good).encode().replace(b'"a"', b'"\\ud800"'), {400, 422}),
    "the first half": (lambda good: json.dumps(good).encode()[:-3], {400}),
    "100k lists": (lambda good: b"[" * 100_000, {400}),
    "100k objects": (lambda good: b'{"a":' * 100_000, {400}),
    "100k lists in a field": (lambda good: json.dumps({**good, "x": 0}).encode()[:-2] + b"[" * 100_000, {400}),
    "a key of a megabyte": (lambda good: json.dumps({**good, "k" * 1_000_000: 0}).encode(), {200}),
    "50k keys": (lambda good: json.dumps({**good, **{f"k{n}": n for n in range(50_000)}}).encode(), {200}),
    "more than is allowed": (lambda good: json.dumps({**good, "x": "a" * 2_000_000}).encode(), {413}),
}


def has_text(kind: str, path: str) -> bool:
    """KServe's prompts are numbers here."""
    return kind not in ("bytes that are no UTF-8", "half a surrogate") or "/v2/" not in path


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind in BODIES for path in GOOD if has_text(kind, path)])
async def test_H4_bodies(victim: Victim, path: str, kind: str) -> None:
    make, statuses = BODIES[kind]
    reply = await victim.post(path, make(GOOD[path]))
    assert reply.status_code in statuses, reply.text
    assert reply.status_code == 200 or 0 < len(reply.text) < 500
    await victim.check_unharmed()


BIG = 10**400
NUMBERS = ("1e400", "-1e400", "NaN", "Infinity", "-Infinity", str(BIG), str(-BIG), str(2**64), str(-(2**63) - 1))
FIELDS = (
    *(("/generate", f"parameters.{name}") for name in ("best_of", "temperature", "top_k", "max_new_tokens", "seed")),
    *(("/generate", f"parameters.{name}") for name in ("truncate", "top_n_tokens", "frequency_penalty")),
    *(
        ("/v1/chat/completions", name)
        for name in ("max_tokens", "n", "top_logprobs", "temperature", "presence_penalty")
    ),
    *(("/v1/completions", name) for name in ("max_tokens", "n", "logprobs", "seed", "repetition_penalty")),
    *(("/v1/messages", name) for name in ("max_tokens", "temperature", "top_k")),
    *(("/v1/responses", name) for name in ("max_output_tokens", "temperature", "top_p")),
)


@pytest.mark.parametrize(("path", "field"), FIELDS)
async def test_H4_numbers_beyond_their_types(victim: Victim, path: str, field: str) -> None:
    """Each is refused, or is a float in range whose effect on the sampler has no bounds to break."""
    for number in NUMBERS:
        *outer, name = field.split(".")
        body: dict[str, Any] = {**GOOD[path], **({"parameters": {name: "@"}} if outer else {name: "@"})}
        reply = await victim.post(path, json.dumps(body).replace('"@"', number).encode())
        is_float = name in ("temperature", "frequency_penalty", "presence_penalty", "repetition_penalty", "top_p")
        allowed = {400, 422} | ({200} if is_float and re.fullmatch(r"-?\d{,30}", number) else set())
        assert reply.status_code in allowed, (number, reply.text)
        assert len(reply.text) < 1000
    await victim.check_unharmed()


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "100k stop strings": (
        "/generate",
        {"inputs": "a", "parameters": {"stop": [str(n) for n in range(100_000)]}},
        "`stop` supports up to 4 stop sequences. Given: 100000",
    ),
    "100k stop strings in a chat": (
        "/v1/chat/completions",
        {**CHAT, "stop": [str(n) for n in range(100_000)]},
        "`stop` supports up to 4 stop sequences. Given: 100000",
    ),
    "100k biases": (
        "/v1/completions",
        {"prompt": "a", "logit_bias": {str(n): 1 for n in range(100_000)}},
        "`logit_bias` supports up to 1024 tokens",
    ),
    "a bias of no token": ("/v1/completions", {"prompt": "a", "logit_bias": {str(BIG): 1}}, "`logit_bias`"),
    "100k prompts": ("/v1/completions", {"prompt": ["a"] * 100_000}, "batch size"),
    "a token id of no token": ("/v1/completions", {"prompt": [2**31 - 1]}, "token ids of a prompt must be below 258"),
    "a long prompt": ("/generate", {"inputs": "a" * 1_900_000}, "`inputs` tokens + `max_new_tokens` must be <= 200100"),
    "40k messages": ("/v1/chat/completions", {"messages": [CHAT["messages"][0]] * 40_000}, "must be <= 200100"),
    "a regular expression that is long": (
        "/generate",
        {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "(a|" * 100_000}}},
        "the regular expression is longer than 16384 characters",
    ),
    "a schema that is large": (
        "/generate",
        {
            "inputs": "a",
            "parameters": {"grammar": {"type": "json", "value": {"properties": {f"k{n}": {} for n in range(100_000)}}}},
        },
        "the schema is longer than 131072 characters",
    ),
    "a schema that is deep, in a string": (
        "/generate",
        {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": '{"properties":' * 100_000}}},
        "grammar is not valid",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_V1_what_is_too_much(victim: Victim, kind: str) -> None:
    path, body, text = REFUSED[kind]
    reply = await victim.post(path, json.dumps(body).encode())
    assert reply.status_code == 422
    assert text in reply.text
    assert len(reply.text) < 1000
    await victim.check_unharmed()


MANY = {
    "/vertex": {"instances": [{"inputs": "a"}] * 100_000},
    "/v2/models/m/versions/1/infer": {
        "id": "1",
        "inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [97]}] * 20_000,
        "outputs": [{"name": "y"}] * 20_000,
    },
}


@pytest.mark.parametrize("path", MANY)
async def test_Q1_more_sequences_than_permits_are_refused_as_one(victim: Victim, path: str) -> None:
    async with httpx.AsyncClient(base_url=victim.url, timeout=TIMEOUT_S, verify=False) as client:
        before = overloaded((await client.get("/metrics")).text)
        assert (await victim.post(path, json.dumps(MANY[path]).encode())).status_code == 429
        assert overloaded((await client.get("/metrics")).text) == before + 1
    await victim.check_unharmed()


def overloaded(metrics: str) -> int:
    [line] = [line for line in metrics.splitlines() if line.startswith('tgi_request_failure{err="overloaded"}')]
    return int(line.split()[1])


async def test_a_stop_string_of_a_megabyte(victim: Victim) -> None:
    """It never comes, and costs nothing to look for."""
    body = {"inputs": "a", "parameters": {"stop": ["x" * 1_000_000]}}
    assert (await victim.post("/generate", json.dumps(body).encode())).json()["generated_text"] == "a"
    await victim.check_unharmed()


# Connections

JSON = b"content-type: application/json\r\n"
BODY = b'{"inputs":"a"}'
POST = b"POST /generate HTTP/1.1\r\nhost: a\r\n" + JSON + b"content-length: 14\r\n\r\n" + BODY
CHUNKED = b"POST /generate HTTP/1.1\r\nhost: a\r\n" + JSON + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS = b'{"inputs":"much","parameters":{"max_new_tokens":%d}}' % LONG
STREAM = (
    b"POST /generate_stream HTTP/1.1\r\nhost: a\r\n"
    + JSON
    + b"content-length: %d\r\n\r\n%b"
    % (
        len(ENDLESS),
        ENDLESS,
    )
)

REQUESTS: dict[str, tuple[bytes, list[int]]] = {
    # What is sent, and the statuses that come back before the server closes.
    "no HTTP": (b"what is this\r\n\r\n", [400]),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), [400]),
    "a tunnel": (b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n", [400]),
    "a tunnel with an upgrade": (b"CONNECT a:80 HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", [400]),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "a path that is no ASCII": ("GET /é HTTP/1.1\r\nhost: a\r\n\r\n".encode(), [400]),
    "a header without a colon": (b"GET / HTTP/1.1\r\nhost\r\n\r\n", [400]),
    "a header with a NUL": (b"GET / HTTP/1.1\r\nx: \0\r\n\r\n", [400]),
    "a length that is no number": (b"POST /generate HTTP/1.1\r\ncontent-length: x\r\n\r\n", [400]),
    "a negative length": (b"POST /generate HTTP/1.1\r\ncontent-length: -1\r\n\r\n", [400]),
    "a length of 400 digits": (b"POST /generate HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % BIG, [400]),
    "two lengths": (b"POST /generate HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", [400]),
    "a length and chunks": (CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n"), [400]),
    "a chunk without a size": (CHUNKED + b"zz\r\n", [400]),
    "a chunk of 400 digits": (CHUNKED + b"f" * 400 + b"\r\n", [400]),
    "a length that is too small": (POST.replace(b"length: 14", b"length: 13"), [400]),
    "a good one, then rubbish": (POST + b"rubbish\r\n\r\n", [400]),
    "a large header": (b"GET / HTTP/1.1\r\nx: " + b"a" * 5000 + b"\r\n\r\n", [431]),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"x: a\r\n" * 2000 + b"\r\n", [431]),
    "a large trailer": (CHUNKED + b"e\r\n" + BODY + b"\r\n0\r\nx: " + b"a" * 9000 + b"\r\n\r\n", [431]),
    "many trailers": (CHUNKED + b"e\r\n" + BODY + b"\r\n0\r\n" + b"x: a\r\n" * 2000, [431]),
}


@asynccontextmanager
async def connected(victim: Victim) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.connect(victim.address)
    reader, writer = await asyncio.open_connection(sock=connection, limit=SMALL_BUFFER)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield reader, writer
    finally:
        writer.close()


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """A connection that was closed with something unread in it may be reset; what came before counts."""
    data = b""
    try:
        while piece := await reader.read(1 << 16):
            data += piece
    except ConnectionError:
        pass
    return data


def statuses(data: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", data)]


@pytest.mark.parametrize("kind", REQUESTS)
async def test_H3_what_is_no_good_request(victim: Victim, kind: str) -> None:
    data, expected = REQUESTS[kind]
    async with connected(victim) as (reader, writer):
        writer.write(data)
        answer = await read_to_end(reader)
    assert statuses(answer) == expected
    await victim.check_unharmed()


async def test_many_requests_in_one_piece_are_answered_in_order(victim: Victim) -> None:
    async with connected(victim) as (reader, writer):
        writer.write(POST * 50)
        for _ in range(50):
            assert b"200 OK" in await reader.readuntil(b'{"generated_text":"a"}')
    await victim.check_unharmed()


UPGRADE = (
    b"host: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
)


@pytest.mark.parametrize("num_pieces", [1, 2, 5])
@pytest.mark.parametrize("request_", [POST, CHUNKED + b"e\r\n" + BODY + b"\r\n0\r\n\r\n"], ids=["length", "chunks"])
async def test_R1_a_body_after_an_offer_of_http2(victim: Victim, num_pieces: int, request_: bytes) -> None:
    """Java's HttpClient makes one with every request. httptools takes such a request to have no body."""
    data = request_.replace(b"host: a\r\n", UPGRADE)
    size = -(-len(data) // num_pieces)
    async with connected(victim) as (reader, writer):
        for _ in range(2):
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(0.01)
            assert b"200 OK" in await reader.readuntil(b'{"generated_text":"a"}')
        writer.write(b"GET /health HTTP/1.1\r\n" + UPGRADE.replace(b"Upgrade,", b"Upgrade, close,") + b"\r\n")
        assert statuses(await read_to_end(reader)) == [200]
    await victim.check_unharmed()


async def test_a_body_whose_end_does_not_come(victim: Victim) -> None:
    """The client leaves in its middle."""
    async with connected(victim) as (_, writer):
        writer.write(POST[:-5])
        await writer.drain()
    await victim.check_unharmed()


async def test_H10_rubbish_after_a_stream_began_ends_both(victim: Victim) -> None:
    """Nothing is written into the stream that its reader would take for a part of it."""
    async with connected(victim) as (reader, writer):
        writer.write(STREAM)
        await reader.readuntil(b'"index":1,')
        writer.write(b"rubbish\r\n\r\n")
        rest = await read_to_end(reader)
    assert statuses(rest) == []
    await victim.check_unharmed()


async def test_H10_a_half_closed_connection_is_gone(victim: Victim) -> None:
    async with connected(victim) as (reader, writer):
        writer.write(STREAM)
        await reader.readuntil(b'"index":1,')
        writer.write_eof()
        await read_to_end(reader)
    await victim.check_unharmed()


async def test_H10_a_reader_that_stalls_is_dropped(tokenizer: Tokenizer) -> None:
    """Its blocks are free again, though its answer was far from its end."""
    with serving(tokenizer, ConnectionLimits(unread_timeout_s=0.2)) as victim:
        async with connected(victim) as (reader, writer):
            writer.write(STREAM)
            await reader.readuntil(b'"index":1,')
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(TIMEOUT_S):
                while not victim.stats.num_used_blocks:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            await victim.until_idle()
        await victim.check_unharmed()
        async with httpx.AsyncClient(base_url=victim.url) as client:
            metrics = (await client.get("/metrics")).text
        assert 'tgi_request_failure{err="dropped"} 1' in metrics


async def test_the_rest_of_a_body_that_was_answered(tokenizer: Tokenizer) -> None:
    """It may come for a little, not for ever."""
    limits = ConnectionLimits(linger_s=0.2)
    head = b"POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
    with serving(tokenizer, limits) as victim:
        async with connected(victim) as (reader, writer):
            writer.write(head)
            assert statuses(await reader.readuntil(b"\r\n\r\n")) == [404]
            drip = asyncio.create_task(send_for_ever(writer, b"x"))
            await read_to_end(reader)
            await drip
        async with connected(victim) as (reader, writer):
            writer.write(head + b"x" * 1_000_000 + POST)
            assert b"404" in await reader.readuntil(b"\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b'{"generated_text":"a"}')


async def send_for_ever(writer: asyncio.StreamWriter, data: bytes) -> None:
    try:
        while not writer.is_closing():
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.01)
    except ConnectionError:
        pass


async def test_no_more_connections_than_allowed(tokenizer: Tokenizer) -> None:
    with serving(tokenizer, ConnectionLimits(max_connections=2)) as victim:
        async with connected(victim) as first, connected(victim) as second:
            for reader, writer in (first, second):
                writer.write(POST)
                await reader.readuntil(b'{"generated_text":"a"}')
            async with connected(victim) as (reader, _):
                refusal = await read_to_end(reader)
            assert statuses(refusal) == [503]
            assert b"retry-after: 1\r\n" in refusal
        async with asyncio.timeout(TIMEOUT_S):
            while not await is_let_in(victim):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def is_let_in(victim: Victim) -> bool:
    async with connected(victim) as (reader, writer):
        writer.write(POST.replace(b"host: a", b"host: a\r\nconnection: close"))
        return statuses(await read_to_end(reader)) == [200]


async def test_Q7_a_request_that_breaks_the_device_leaves_the_others_alone(tokenizer: Tokenizer) -> None:
    """Its step is run again without it, and the server stays healthy."""
    config = EngineConfig(num_blocks=256, block_size=16)
    model = ServedModel(model_id="test/model", tokenizer=tokenizer)

    def is_boom(sequence: ScheduledSequence) -> bool:
        return list(sequence.history[1:5]) == ids_of("boom")

    runner = FakeRunner(next_token=echo, fails=is_boom)
    with LocalEngine(Engine(config, runner), replace(INFO, num_blocks=256)) as engine:
        app = build_app(ServeConfig(), engine, model)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=TIMEOUT_S) as client:
            prompts = [*(f"prompt {number}" for number in range(5)), "boom", *(f"more {number}" for number in range(5))]
            replies = await asyncio.gather(*(client.post("/generate", json={"inputs": each}) for each in prompts))
            for prompt, reply in zip(prompts, replies, strict=True):
                if prompt == "boom":
                    assert (reply.status_code, reply.json()) == (
                        424,
                        {
                            "error": "Request failed during generation: the fake device failed",
                            "error_type": "generation",
                        },
                    )
                else:
                    assert reply.json() == {"generated_text": prompt}
            assert (await client.get("/health")).status_code == 200
            lines = (await client.get("/metrics")).text.splitlines()
    failures = [line for line in lines if line.startswith('tgi_batch_inference_failure{method="prefill"}')]
    assert float(failures[0].split()[1]) > 0
    assert 'tgi_request_failure{err="generation"} 1' in lines


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_H3_any_bytes_on_a_connection(victim: Victim, data: st.DataObject) -> None:
    """Good requests, cut, doubled and spoiled: each answer is one of HTTP's, and none blames the server."""
    parts = st.sampled_from(
        [POST, CHUNKED, b"e\r\n" + BODY + b"\r\n0\r\n\r\n", b"0\r\n\r\n", b"\r\n", b"GET /info HTTP/1.1\r\n"]
    )
    sent = b"".join(data.draw(st.lists(parts | st.binary(max_size=20), min_size=1, max_size=6)))
    cut = data.draw(st.integers(0, len(sent)))
    spoiled = data.draw(st.dictionaries(st.integers(0, max(0, len(sent) - 1)), st.integers(0, 255), max_size=3))
    raw = bytearray(sent)
    for place, byte in spoiled.items():
        raw[place : place + 1] = bytes([byte])
    with socket.create_connection(victim.address, timeout=TIMEOUT_S) as connection:
        answer = b""
        try:
            connection.sendall(raw[:cut])
            connection.sendall(raw[cut:])
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answer += piece
        except OSError:  # closed by the server, at any moment
            pass
    assert all(status < 500 for status in statuses(answer)), answer


async def test_after_all_that_it_is_unharmed(victim: Victim) -> None:
    await victim.check_unharmed()
