"""The client beside bare httpx, against a canned server in a process of its own.

    python benchmarks/client.py

Measures what a call costs more than ``httpx.post``, whether a thousand queued calls keep their order and cost nothing
while they wait, how many server-sent events a second are parsed, and whether random cancellations leak slots. Prints a
table with ratios to the targets and appends it to benchmarks/results/client.jsonl. Needs neither torch nor a model.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import httpx
from report import record

from segue.client import AsyncClient, Client, Endpoint, EndpointPool
from segue.client._base import HTTP_SETTINGS
from segue.client._sse import EventDecoder
from segue.client._streams import GENERATE, StreamReader
from segue.client.types import ResponseMetadata

TOKEN = {"id": 7, "text": " word", "logprob": -0.25, "special": False}
DETAILS = {"finish_reason": "length", "generated_tokens": 1, "seed": None, "prefill": [], "tokens": [TOKEN]}
BODY = json.dumps({"generated_text": " word", "details": DETAILS}).encode()
PARAMETERS = {"max_new_tokens": 1, "details": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000, help="calls for each side of the overhead")
    parser.add_argument("--cancellations", type=int, default=10_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    with canned_server() as url:
        rows = [
            *overhead_rows(url, arguments.calls),
            *asyncio.run(async_overhead_rows(url, arguments.calls)),
            *queue_rows(url),
            *sse_rows(),
            *asyncio.run(cancellation_rows(url, arguments.cancellations)),
        ]
    print(f"\n{'measure':70} {'value':>12} {'target':>12} {'value/target':>13}")
    for row in rows:
        target, ratio = row["target"], ""
        if target:
            ratio = f"{row['value'] / target:.2f}"
        shown = "" if target is None else f"{target:,.6g}"
        print(f"{row['measure']:70} {row['value']:>12,.6g} {shown:>12} {ratio:>13}")
    record("client", rows, {"python": sys.version.split()[0], "httpx": httpx.__version__})


def row(measure: str, value: float, target: float | None = None) -> dict[str, Any]:
    return {"measure": measure, "value": value, "target": target}


# overhead


def bare_call(http: httpx.Client, url: str) -> None:
    response = http.post(url, json={"inputs": "hi", "parameters": PARAMETERS})
    assert response.json()["generated_text"] == " word"


def overhead_rows(url: str, num_calls: int) -> Iterator[dict[str, Any]]:
    with httpx.Client(**HTTP_SETTINGS) as http, Client(url, environment={}) as client:
        sides: dict[str, Callable[[], object]] = {
            "bare": lambda: bare_call(http, f"{url}/generate"),
            "ours": lambda: client.generate("hi", max_new_tokens=1),
        }
        times: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(num_calls + 200):
            for side, call in sides.items():
                began = time.perf_counter()
                call()
                if number >= 200:
                    times[side].append(time.perf_counter() - began)
    yield from compared("threads", times)


async def async_overhead_rows(url: str, num_calls: int) -> list[dict[str, Any]]:
    async def bare() -> None:
        response = await http.post(f"{url}/generate", json={"inputs": "hi", "parameters": PARAMETERS})
        assert response.json()["generated_text"] == " word"

    async with httpx.AsyncClient(**HTTP_SETTINGS) as http, AsyncClient(url, environment={}) as client:
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        for number in range(num_calls + 200):
            for side in times:
                began = time.perf_counter()
                await (bare() if side == "bare" else client.generate("hi", max_new_tokens=1))
                if number >= 200:
                    times[side].append(time.perf_counter() - began)
    return list(compared("asyncio", times))


def compared(kind: str, times: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    bare, ours = median(times["bare"]) * 1e3, median(times["ours"]) * 1e3
    yield row(f"{kind}: one call through bare httpx, ms (median)", bare)
    yield row(f"{kind}: one call through the client, ms (median)", ours)
    yield row(f"{kind}: overhead a request, ms (median)", ours - bare, 0.3)


# the line


def queue_rows(url: str) -> Iterator[dict[str, Any]]:
    """The eight that have a slot race each other, over eight connections; none may be overtaken by more than those."""
    for kind, run in (("threads", queued_threads), ("asyncio", lambda *a: asyncio.run(queued_tasks(*a)))):
        httpx.post(f"{url}/hold")
        pool = EndpointPool([Endpoint(url, max_concurrent=8, queue_size=1000)])
        sent: list[int] = []
        cpu_s = run(url, pool, sent)
        assert sorted(sent) == sorted(httpx.get(f"{url}/seen").json()) == list(range(1000))
        shift = max(position - number for position, number in enumerate(sent))
        yield row(f"{kind}: 1,000 calls on 8 slots, most sent before an earlier one", shift, 7)
        yield row(f"{kind}: CPU while 992 wait, share of a core", cpu_s / HELD_S, 0.01)


def note(sent: list[int], request: httpx.Request) -> None:
    if request.url.path == "/generate":
        sent.append(int(json.loads(request.content)["inputs"]))


HELD_S = 2.0


def queued_threads(url: str, pool: EndpointPool, sent: list[int]) -> float:
    threading.stack_size(256 * 1024)
    hooks = {"request": [lambda request: note(sent, request)]}
    with (
        httpx.Client(**HTTP_SETTINGS, event_hooks=hooks) as http,
        Client(pool=pool, http_client=http, environment={}) as client,
    ):
        threads = [threading.Thread(target=client.generate, args=(str(number),)) for number in range(1000)]
        for number, thread in enumerate(threads):
            thread.start()
            while pool.state(pool.ids[0]).counters.total_requests <= number:  # it stands in the line
                time.sleep(0.0001)
        before = time.process_time()
        time.sleep(HELD_S)
        cpu_s = time.process_time() - before
        httpx.post(f"{url}/release")
        for thread in threads:
            thread.join()
    return cpu_s


async def queued_tasks(url: str, pool: EndpointPool, sent: list[int]) -> float:
    async def hook(request: httpx.Request) -> None:
        note(sent, request)

    async with (
        httpx.AsyncClient(**HTTP_SETTINGS, event_hooks={"request": [hook]}) as http,
        AsyncClient(pool=pool, http_client=http, environment={}) as client,
    ):
        tasks = [asyncio.create_task(client.generate(str(number))) for number in range(1000)]
        await asyncio.sleep(1)
        assert pool.stats().total_requests == 1000
        before = time.process_time()
        await asyncio.sleep(HELD_S)
        cpu_s = time.process_time() - before
        await http.post(f"{url}/release")
        await asyncio.gather(*tasks)
    return cpu_s


# server-sent events


def sse_rows() -> Iterator[dict[str, Any]]:
    event = {"index": 1, "token": TOKEN, "generated_text": None, "details": None}
    stream = b"data: " + json.dumps(event).encode() + b"\n\n"
    num_events = 200_000
    data = stream * num_events
    for size, name in ((len(stream), "one event"), (16 * 1024, "16 KiB")):
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        yield row(
            f"SSE events per CPU second split into payloads, chunks of {name}",
            best_rate(num_events, split, chunks),
            100_000,
        )
        yield row(
            f"SSE events per CPU second parsed into tokens, chunks of {name}",
            best_rate(num_events, parse, chunks),
            100_000,
        )


def best_rate(num_events: int, work: Callable[[list[bytes]], int], chunks: list[bytes]) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        assert work(chunks) == num_events
        best = min(best, time.process_time() - began)
    return num_events / best


def split(chunks: list[bytes]) -> int:
    decoder = EventDecoder()
    return sum(len(decoder.feed(chunk)) for chunk in chunks)


def parse(chunks: list[bytes]) -> int:
    response = ResponseMetadata(200, {}, "id", 0.0, 1, "e")
    reader = StreamReader(GENERATE, lambda: response)
    count = 0
    for chunk in chunks:
        reader.feed(chunk)
        count += len(reader.events)
        reader.events.clear()
    return count


# cancellations


async def cancellation_rows(url: str, num_calls: int) -> list[dict[str, Any]]:
    """Calls, half of them streams, cancelled at random moments: connecting, in the line, waiting for the answer."""
    rng = random.Random(0)
    pool = EndpointPool([Endpoint(url, max_concurrent=8, queue_size=None)])
    cancelled = 0

    async def call(number: int) -> None:
        if number % 2:
            stream = await client.generate("hi", stream=True)
            async for _ in stream:
                pass
        else:
            await client.generate("hi", max_new_tokens=1)

    async with AsyncClient(pool=pool, environment={}) as client:
        for first in range(0, num_calls, 100):
            tasks = [asyncio.create_task(call(number)) for number in range(first, first + 100)]
            for task in rng.sample(tasks, len(tasks)):
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.random() * 0.002)
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled += sum(isinstance(end, asyncio.CancelledError) for end in ends)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
        stats = pool.stats()
        leaked = stats.global_current_requests + stats.global_queue_size
        lost = stats.total_requests - stats.successful_requests - stats.failed_requests
        await asyncio.gather(*(client.generate("hi") for _ in range(8)))
    return [
        row(f"of {num_calls:,} calls cancelled at random moments: cancelled", cancelled),
        row("slots and places leaked by them", leaked, 0),
        row("calls that the counters lost", lost, 0),
    ]


# the canned server


class Canned(asyncio.Protocol):
    """HTTP as far as these measurements need it."""

    release = asyncio.Event()
    seen: list[int] = []  # noqa: RUF012 - one list for all connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        lowered = head.lower()
        start = lowered.find(b"content-length:")
        length = int(lowered[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        self.answer(head.split(b" ", 2)[1].decode(), rest[:length])

    def answer(self, path: str, content: bytes) -> None:
        match path:
            case "/hold":
                Canned.seen.clear()
                Canned.release.clear()
                self.send(b"")
            case "/release":
                Canned.release.set()
                self.send(b"")
            case "/seen":
                self.send(json.dumps(Canned.seen).encode())
            case "/generate_stream":
                self.send_stream()
            case _:
                prompt = json.loads(content)["inputs"]
                if prompt.isdecimal():
                    Canned.seen.append(int(prompt))
                if Canned.release.is_set():
                    self.send(BODY)
                else:
                    task = asyncio.get_running_loop().create_task(self.send_later())
                    TASKS.add(task)
                    task.add_done_callback(TASKS.discard)

    async def send_later(self) -> None:
        await Canned.release.wait()
        self.send(BODY)

    def send(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)  # type: ignore[attr-defined]

    def send_stream(self) -> None:
        event = {"index": 1, "token": TOKEN, "generated_text": None, "details": None}
        last = {**event, "generated_text": " word", "details": DETAILS}
        body = b"".join(b"data: " + json.dumps(made).encode() + b"\n\n" for made in (event, event, last))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self.transport.write(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))  # type: ignore[attr-defined]


TASKS: set[asyncio.Task[None]] = set()


async def serve() -> None:
    Canned.release.set()
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def canned_server() -> Iterator[str]:
    process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
