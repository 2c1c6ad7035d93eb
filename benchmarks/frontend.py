"""The streaming front end alone: an engine that only counts, many open streams, every token an event of its own.

    python benchmarks/frontend.py --streams 1024 --rate 10 --route generate_stream

Four kinds of processes: an engine stand-in behind the engine process's own loop and socket, which gives every stream a
token ``--rate`` times a second; ``--processes`` API processes, the application with uvloop on one shared listener; a
client that only counts events. Then the bound: a bare uvloop server that sends the same bytes to the same client.
Prints events a second and core of the API processes (over their CPU seconds), and the lag from emission to receipt;
appends a JSON line a row to benchmarks/results/frontend.jsonl.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import random
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from report import machine, record
from server import cpu_seconds

from segue.core.config import ServeConfig
from segue.core.output import EngineInfo, EngineStep, FinishReason, RequestOutput, StepStats, TokenOutput
from segue.core.request import Request
from segue.engine.config import EngineConfig
from segue.engine.engine_process import run_engine_loop
from segue.engine.remote import RemoteEngine

ROUTES = {"generate_stream": "/generate_stream", "chat": "/v1/chat/completions"}
VOCABULARY = 4096
MAX_TOTAL_TOKENS = 4096
WAIT_S = 120.0

spawn = multiprocessing.get_context("spawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16, 256, 1024])
    parser.add_argument("--rate", type=float, default=10.0, help="tokens a second and stream")
    parser.add_argument("--tokens", type=int, default=100, help="of each stream")
    parser.add_argument("--processes", type=int, default=1, help="API processes")
    parser.add_argument("--route", choices=sorted(ROUTES), nargs="+", default=sorted(ROUTES))
    parser.add_argument("--repeats", type=int, default=3, help="the run with the least CPU time counts")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_tokenizer(folder)
        for route in args.route:
            for num_streams in args.streams:
                run = Run(folder, route, num_streams, args.rate, args.tokens, args.processes)
                ours = min((run.segue() for _ in range(args.repeats)), key=lambda row: row["cpu_s"])
                bound = min((run.bare(ours["bytes_per_event"]) for _ in range(args.repeats)), key=lambda r: r["cpu_s"])
                for row in (ours, bound):
                    row["of_bound"] = row["events_per_core_s"] / bound["events_per_core_s"]
                    rows.append(row)
                    print_row(row)
    record("frontend", rows, machine())


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['route']:16} {row['engine']:6} {row['streams']:5} streams {row['processes']} proc  "
        f"{row['events_per_s']:8.0f} events/s  {row['events_per_core_s']:8.0f} events/s/core ({row['of_bound']:.2f})  "
        f"{row['us_per_event']:6.1f} us/event  lag p50 {row['lag_p50_ms']:7.2f} ms  p99 {row['lag_p99_ms']:7.2f} ms  "
        f"{row['bytes_per_event']:.0f} B/event",
        flush=True,
    )


class Run:
    """One setting, to be run several times."""

    def __init__(self, folder: Path, route: str, streams: int, rate: float, tokens: int, processes: int) -> None:
        self.folder, self.route, self.streams = folder, route, streams
        self.rate, self.tokens, self.processes = rate, tokens, processes

    def segue(self) -> dict[str, Any]:
        """Our front end before the stand-in."""
        endpoint = f"ipc://{self.folder}/engine"
        engine = Child(stand_in, endpoint, self.streams, self.rate, self.tokens, str(self.folder / "emitted"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            servers = [Child(api, endpoint, listener, str(self.folder)) for _ in range(self.processes)]
            for server in servers:
                server.hear()
            return self._measure("segue", engine, servers, listener.getsockname()[1])

    def bare(self, num_bytes: float) -> dict[str, Any]:
        """The bound: what a loop that knows its bytes needs to write them."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            server = Child(
                bare, listener, self.streams, self.rate, self.tokens, int(num_bytes), str(self.folder / "emitted")
            )
            server.hear()
            return self._measure("bare", server, [server], listener.getsockname()[1])

    def _measure(self, name: str, engine: "Child", servers: "list[Child]", port: int) -> dict[str, Any]:
        client = Child(count_events, port, self.route, self.streams, self.tokens, str(self.folder / "received"))
        engine.hear()  # all streams are open
        before = [cpu_seconds(server.pid) for server in servers]
        engine.say()
        num_bytes = client.hear()
        cpu_s = sum(cpu_seconds(server.pid) for server in servers) - sum(before)
        for child in (client, *servers, engine):
            child.end()
        emitted = np.fromfile(self.folder / "emitted")
        received = np.fromfile(self.folder / "received").reshape(self.streams, self.tokens)
        lags = (received - emitted) * 1e3
        num_events = self.streams * self.tokens
        wall_s = received.max() - emitted[0]
        return {
            "engine": name,
            "route": self.route,
            "streams": self.streams,
            "rate": self.rate,
            "processes": len(servers),
            "events_per_s": num_events / wall_s,
            "cpu_s": cpu_s,
            "events_per_core_s": num_events / cpu_s,
            "us_per_event": 1e6 * cpu_s / num_events,
            "lag_p50_ms": float(np.percentile(lags, 50)),
            "lag_p99_ms": float(np.percentile(lags, 99)),
            "bytes_per_event": num_bytes / num_events,
        }


class Child:
    """A process and a pipe to it."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self._pipe, far = spawn.Pipe()
        self._process = spawn.Process(target=target, args=(far, *arguments), daemon=True)
        self._process.start()
        far.close()
        self.pid = self._process.pid or 0

    def hear(self) -> Any:
        assert self._pipe.poll(WAIT_S), "a process says nothing"
        return self._pipe.recv()

    def say(self) -> None:
        self._pipe.send(None)

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


class StandIn:
    """What ``run_engine_loop`` asks of an engine: it holds requests back until all have come, then runs in step."""

    def __init__(self, pipe: Connection, num_streams: int, rate: float, num_tokens: int, emitted: str) -> None:
        self.config = EngineConfig(num_blocks=1, block_size=16)
        self._pipe = pipe
        self._num_streams = num_streams
        self._period_s = 1 / rate
        self._num_tokens = num_tokens
        self._emitted = np.memmap(emitted, np.float64, "w+", shape=num_tokens)
        self._ids: list[int] = []
        self._step = 0
        self._due = 0.0
        self._random = random.Random(0)

    @property
    def has_work(self) -> bool:
        return len(self._ids) == self._num_streams

    def add(self, request: Request) -> None:
        self._ids.append(request.request_id)

    def abort(self, request_ids: Iterable[int]) -> None:
        """The client leaves only when all is said."""

    def wake_with(self, wake: Callable[[], None]) -> None:
        """Work comes by ``add`` alone."""

    def step(self) -> EngineStep | None:
        if not self.has_work:
            return None
        if self._step == 0:
            self._pipe.send(None)
            self._pipe.recv()
            self._due = time.monotonic()
        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due += self._period_s
        end = FinishReason.LENGTH if self._step + 1 == self._num_tokens else None
        token_id, logprob = self._random.randrange(VOCABULARY // 2), -self._random.random() * 8
        token = (TokenOutput(token_id, logprob),)
        outputs = tuple(RequestOutput(request_id=each, tokens=token, finish_reason=end) for each in self._ids)
        self._emitted[self._step] = time.monotonic()
        self._step += 1
        if end is not None:
            self._ids = []
        size = len(outputs)
        now = time.monotonic()
        stats = StepStats(num_running=size, num_scheduled_tokens=size, num_decode_sequences=size, end_time=now)
        return EngineStep(outputs=outputs, stats=stats)


def stand_in(pipe: Connection, endpoint: str, num_streams: int, rate: float, num_tokens: int, emitted: str) -> None:
    info = EngineInfo(
        model_type="opt",
        is_encoder_decoder=False,
        dtype="float32",
        device="cpu",
        vocab_size=VOCABULARY,
        max_input_tokens=MAX_TOTAL_TOKENS - 1,
        max_total_tokens=MAX_TOTAL_TOKENS,
        max_batch_prefill_tokens=MAX_TOTAL_TOKENS,
        max_batch_total_tokens=1 << 24,
        block_size=16,
        num_blocks=1 << 20,
    )
    engine: Any = StandIn(pipe, num_streams, rate, num_tokens, emitted)
    run_engine_loop(engine, info, endpoint)


def api(pipe: Connection, endpoint: str, listener: socket.socket, folder: str) -> None:
    async def serve() -> None:
        from segue.launcher.download import ModelSource
        from segue.launcher.http_server import HTTPServer
        from segue.launcher.processes import load_text
        from segue.server.app import build_app
        from segue.server.token_lane import new_lane

        config = ServeConfig(model_id="stand-in", max_concurrent_requests=1 << 16)
        handle = RemoteEngine(endpoint, lane=new_lane())
        model = load_text(config, ModelSource(model_id="stand-in", folder=Path(folder)))
        await handle.connect(WAIT_S)
        server = HTTPServer(build_app(config, handle, model), listener)
        running = asyncio.ensure_future(server.run())
        await server.started.wait()
        gc.collect()
        gc.freeze()
        pipe.send(None)
        await running

    uvloop.run(serve())


def bare(
    pipe: Connection, listener: socket.socket, num_streams: int, rate: float, num_tokens: int, size: int, emitted: str
) -> None:
    times = np.memmap(emitted, np.float64, "w+", shape=num_tokens)
    event = b"data: " + b"x" * (size - 8) + b"\n\n"
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    transports: list[asyncio.Transport] = []

    async def serve() -> None:
        all_there = asyncio.Event()

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                self.transport = transport

            def data_received(self, data: bytes) -> None:
                self.transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                transports.append(self.transport)
                if len(transports) == num_streams:
                    all_there.set()

        listener.listen(2048)
        server = await asyncio.get_running_loop().create_server(Protocol, sock=listener)
        pipe.send(None)
        await all_there.wait()
        pipe.send(None)
        pipe.recv()
        due = time.monotonic()
        for step in range(num_tokens):
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += 1 / rate
            times[step] = time.monotonic()
            for transport in transports:
                transport.write(chunk)
        await server.serve_forever()

    uvloop.run(serve())


def count_events(
    pipe: Connection, port: int, route: str, num_streams: int, num_tokens: int, received_path: str
) -> None:
    """Open all streams, then note when each event came; says how many bytes of events there were."""
    received = np.memmap(received_path, np.float64, "w+", shape=(num_streams, num_tokens))
    request = request_bytes(route, num_tokens)
    poller = select.epoll()
    streams: dict[int, tuple[int, socket.socket]] = {}
    for index in range(num_streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request)
        connection.setblocking(False)
        streams[connection.fileno()] = index, connection
        poller.register(connection, select.EPOLLIN)
    counts = [0] * num_streams
    ends_in_newline = [False] * num_streams
    num_bytes = 0
    num_left = num_streams * num_tokens
    while num_left:
        for fd, _ in poller.poll():
            index, connection = streams[fd]
            data = connection.recv(1 << 18)
            now = time.monotonic()
            assert data, "a stream ended early"
            num_events = data.count(b"\n\n") + (ends_in_newline[index] and data[0] == 10)
            ends_in_newline[index] = data[-1] == 10
            start = counts[index]
            end = min(num_tokens, start + num_events)  # [DONE] is no token
            if end > start:
                assert b'data: {"error"' not in data, data
                received[index, start:end] = now
                counts[index] = end
                num_left -= end - start
                num_bytes += len(data)
    pipe.send(num_bytes)
    pipe.recv()


def request_bytes(route: str, num_tokens: int) -> bytes:
    if route == "chat":
        messages = [{"role": "user", "content": "hello"}]
        asked: dict[str, Any] = {"model": "stand-in", "messages": messages, "stream": True, "max_tokens": num_tokens}
    else:
        asked = {"inputs": "hello", "parameters": {"max_new_tokens": num_tokens}}
    body = json.dumps(asked).encode()
    head = f"POST {ROUTES[route]} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of English, learnt from the documentation, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((text.read_text() for text in texts), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
