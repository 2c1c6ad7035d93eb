"""What HTTP costs: the engine alone in a process, beside the same engine served, same requests, taking turns.

    python benchmarks/http_loss.py --model models/llama-1b --quantize int8 --streams 1 16 --repeats 5

Both have a cache that the warm-up has filled once. Alone, a process builds the engine as ``segue serve`` does and
calls its steps. Served, every token is a server-sent event of its own, read over plain sockets by this process:
``eager`` wakes for each event, and pays for it with the same cores; ``bulk`` leaves all but the first in the kernel
until the stream ends, as a client on another machine would cost nothing. One stream counts tokens a second after the
first token; several count all tokens over the whole time, prompts included. Each turn runs both, the one that begins
changing; a turn in which others used the processors is taken again, up to ``--tries`` times as many turns in all, of
which the quietest count. Prints medians, the loss, the median loss of the pairs, and the CPU time that each process
takes for a token; appends a JSON line a row to benchmarks/results/http-loss.jsonl.
"""

import argparse
import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from neighbours import Neighbours
from report import machine, record
from server import cpu_seconds, served

from segue.text.tokenizer import Tokenizer

WAIT_S = 600.0
QUIET_SHARE = 0.06
"""Of one processor, which others may use in a turn that counts for quiet."""
BULK_BYTES = 1 << 20
CACHED_TURNS = 2
"""What the cache holds. In a larger one most turns would use memory that nobody has written yet: to clear it took the
kernel 0 to 80 ms of 400."""
WARM_TURNS = CACHED_TURNS + 1


@dataclass(frozen=True)
class Work:
    text: str
    ids: tuple[int, ...]
    num_new: int


@dataclass(frozen=True)
class Run:
    """Times in seconds from the first request on."""

    first_s: float
    last_s: float
    num_tokens: int
    num_first: int = 1
    """Tokens that were there at ``first_s``."""

    def rate(self, num_streams: int) -> float:
        if num_streams == 1:
            return (self.num_tokens - self.num_first) / (self.last_s - self.first_s)
        return self.num_tokens / self.last_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the checkpoint")
    parser.add_argument("--quantize", help="as segue serve's")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--new", type=int, default=128, help="tokens")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tries", type=int, default=4, help="at most so many turns for each that counts")
    parser.add_argument("--clients", nargs="+", choices=("eager", "bulk"), default=["eager", "bulk"])
    parser.add_argument("--num-threads", type=int, help="as segue serve's")
    args = parser.parse_args()
    options = {key: value for key in ("quantize", "num_threads") if (value := getattr(args, key)) is not None}
    options["max_batch_total_tokens"] = CACHED_TURNS * max(args.streams) * (args.prompt + args.new)
    flags = [text for key, value in options.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    tokenizer = Tokenizer.from_folder(args.model)
    rows = []
    with alone(args.model, options) as (engine, engine_pid), served(args.model, flags) as server:
        for num_streams in args.streams:
            measured = pairs(engine, engine_pid, server.port, server.pids, tokenizer, num_streams, args)
            for client in args.clients:
                row = {"model": args.model.name, "quantize": args.quantize, "streams": num_streams, "client": client}
                rows.append(row | summary(num_streams, measured[client]))
                print_row(rows[-1])
    record("http-loss", rows, {"prompt": args.prompt, "new": args.new, **options, **machine()})


def pairs(
    engine: Connection,
    engine_pid: int,
    port: int,
    pids: dict[str, int],
    tokenizer: Tokenizer,
    num_streams: int,
    args: argparse.Namespace,
) -> dict[str, list[dict[str, Any]]]:
    """For each kind of client: what the turns gave; the first ones warm up."""
    neighbours = Neighbours([*pids.values(), engine_pid])
    found: dict[str, list[dict[str, Any]]] = {}
    seeds = itertools.count(num_streams << 20)  # no prompt of other rows, which a cache would hold
    for client in args.clients:
        turns = []
        for turn in range(-WARM_TURNS, args.repeats * args.tries):
            work = [item(tokenizer, next(seeds), args.prompt, args.new) for _ in range(num_streams)]
            neighbours.watch()
            measured = one_turn(engine, port, pids, work, is_bulk=client == "bulk", starts_with_engine=turn % 2 == 0)
            if turn >= 0:
                turns.append(measured | {"others": neighbours.share()})
            if sum(each["others"] <= QUIET_SHARE for each in turns) == args.repeats:
                break
        found[client] = sorted(turns, key=lambda each: each["others"])[: args.repeats]
    return found


def one_turn(
    engine: Connection, port: int, pids: dict[str, int], work: list[Work], *, is_bulk: bool, starts_with_engine: bool
) -> dict[str, Any]:
    """The same work both ways."""

    def direct() -> Run:
        engine.send([(each.ids, each.num_new) for each in work])
        assert engine.poll(WAIT_S), "the engine says nothing"
        run: Run = engine.recv()
        return run

    alone_run = direct() if starts_with_engine else None
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    started_cpu = time.process_time()
    through = stream_all(port, work, is_bulk=is_bulk)
    client_s = time.process_time() - started_cpu
    cpu = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()} | {"client": client_s}
    alone_run = alone_run or direct()
    assert through.num_tokens == alone_run.num_tokens, (through, alone_run)
    return {"direct": alone_run, "through": through, "cpu": cpu}


def summary(num_streams: int, turns: list[dict[str, Any]]) -> dict[str, Any]:
    direct = [turn["direct"].rate(num_streams) for turn in turns]
    through = [turn["through"].rate(num_streams) for turn in turns]
    num_tokens = sum(turn["through"].num_tokens for turn in turns)
    cpu = {f"{name}_us": 1e6 * sum(turn["cpu"][name] for turn in turns) / num_tokens for name in turns[0]["cpu"]}
    return {
        "engine_tokens_per_s": median(direct),
        "http_tokens_per_s": median(through),
        "loss": 1 - median(through) / median(direct),
        "median_loss": median(1 - b / a for a, b in zip(direct, through, strict=True)),
        "engine_ttft_ms": 1e3 * median(turn["direct"].first_s for turn in turns),
        "http_ttft_ms": 1e3 * median(turn["through"].first_s for turn in turns),
        **cpu,
        "others": median(turn["others"] for turn in turns),
        "tokens": num_tokens,
        "repeats": len(turns),
    }


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['model']:10} {row['quantize'] or '':5} {row['streams']:3} streams, {row['client']:5} client  "
        f"{row['engine_tokens_per_s']:8.1f} → {row['http_tokens_per_s']:8.1f} tokens/s  loss {row['loss']:6.1%} "
        f"(pairs {row['median_loss']:6.1%})  first token {row['engine_ttft_ms']:.1f} → "
        f"{row['http_ttft_ms']:.1f} ms  CPU us/token: API {row['api_us']:.1f}, engine {row['engine_us']:.1f}, "
        f"client {row['client_us']:.1f}  others {row['others']:.2f}",
        flush=True,
    )


def item(tokenizer: Tokenizer, seed: int, num_prompt: int, num_new: int) -> Work:
    """A prompt of about ``num_prompt`` tokens that no other seed begins like."""
    words = [f"w{(seed * 7919 + i * 104729) % 9973}" for i in range(num_prompt)]
    ids = tokenizer.encode(" ".join(words))
    text = tokenizer.decode(ids[:num_prompt], skip_special_tokens=True)
    return Work(text, tuple(tokenizer.encode(text)), num_new)


# the engine alone


@contextlib.contextmanager
def alone(folder: Path, options: dict[str, Any]) -> Iterator[tuple[Connection, int]]:
    """A process that runs what it is sent, and its id."""
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=run_alone, args=(far, folder, options), daemon=True)
    process.start()
    assert process.pid is not None
    assert pipe.poll(WAIT_S), "the engine did not load"
    pipe.recv()
    try:
        yield pipe, process.pid
    finally:
        process.terminate()
        process.join()


def run_alone(pipe: Connection, folder: Path, options: dict[str, Any]) -> None:
    from segue.core.config import resolve
    from segue.core.request import Request, SamplingParams, StopCriteria
    from segue.launcher.engine_child import build_engine
    from segue.launcher.engine_process import engine_environment

    os.environ.update(engine_environment(os.environ))  # before torch is there to read it
    engine, info = build_engine(resolve({"model_id": str(folder), **options}), folder)
    gc.collect()
    gc.freeze()
    pipe.send(None)

    def request(number: int, ids: tuple[int, ...], num_new: int) -> Request:
        return Request(
            request_id=number,
            prompt_token_ids=info.decoder_start_token_ids if info.is_encoder_decoder else ids,
            encoder_token_ids=ids if info.is_encoder_decoder else None,
            sampling=SamplingParams(),
            stop=StopCriteria(max_new_tokens=num_new, eos_token_ids=frozenset(info.eos_token_ids)),
        )

    while True:
        work = pipe.recv()
        started = time.perf_counter()
        for number, (ids, num_new) in enumerate(work):
            engine.add(request(number, ids, num_new))
        first = 0.0
        num_tokens = 0
        while engine.has_work:
            step = engine.step()
            for output in step.outputs if step else ():
                assert output.error is None, output.error
                num_tokens += len(output.tokens)
                first = first or time.perf_counter() - started
        pipe.send(Run(first, time.perf_counter() - started, num_tokens))


# the client


def stream_all(port: int, work: list[Work], *, is_bulk: bool) -> Run:
    """All requests together, on connections that are there before the time begins."""
    poller = select.epoll()
    connections: dict[int, socket.socket] = {}
    for _ in work:
        connection = socket.create_connection(("127.0.0.1", port))
        connections[connection.fileno()] = connection
        poller.register(connection, select.EPOLLIN)
    requests = [request_bytes(each) for each in work]
    started = time.perf_counter()
    for connection, request in zip(connections.values(), requests, strict=True):
        connection.sendall(request)
        connection.setblocking(False)
    counts = dict.fromkeys(connections, 0)
    tails = dict.fromkeys(connections, b"")
    first = last = 0.0
    num_first = 0
    buffer = bytearray(BULK_BYTES)  # once: ``recv`` would have the system map and clear as much each time
    while connections:
        for fd, _ in poller.poll():
            data = bytes(memoryview(buffer)[: connections[fd].recv_into(buffer)])
            if not data:
                poller.unregister(fd)
                connections.pop(fd).close()
                continue
            now = time.perf_counter() - started
            assert b'data: {"error"' not in data, data
            assert tails[fd] or data.startswith(b"HTTP/1.1 200"), data
            num_events = (tails[fd] + data).count(b"\n\n")
            tails[fd] = data[-1:] if data[-1:] == b"\n" and data[-2:] != b"\n\n" else b" "
            if num_events:
                last = now
            if num_events and not counts[fd]:
                first, num_first = (first, num_first) if first else (now, num_events)
                if is_bulk:
                    connections[fd].setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, BULK_BYTES)
            counts[fd] += num_events
    return Run(first, last, sum(counts.values()), num_first)


def request_bytes(work: Work) -> bytes:
    body = json.dumps({"inputs": work.text, "parameters": {"max_new_tokens": work.num_new}}).encode()
    head = (
        "POST /generate_stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


if __name__ == "__main__":
    main()
