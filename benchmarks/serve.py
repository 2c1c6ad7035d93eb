"""Through HTTP: a Segue server beside ``transformers.generate`` in this process, at 1, 4 and 16 streams.

    python benchmarks/serve.py --model opt-125m --streams 1 4 16 --repeats 3

Every token is its own server-sent event. The peer has no HTTP and no second process to share the cores with. The two
take turns; the server is idle while the peer runs. Prints medians and ratios, and appends them to
benchmarks/results/serve.jsonl.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from statistics import median

import torch
from checkpoints import SHAPES, checkpoint, words
from peers.transformers_generate import TransformersPeer
from report import machine, print_table, record
from server import served, tree_memory
from workload import Timing, WorkItem, requests_for, summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), nargs="+", default=["opt-125m", "t5-efficient-tiny"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "segue-benchmarks")
    parser.add_argument("--flags", default="", help="more flags for segue serve, e.g. '--num-threads 1'")
    args = parser.parse_args()
    for name in args.model:
        folder = checkpoint(name, args.cache)
        with served(folder, args.flags.split()) as server:
            facts = {"ready_s": round(server.ready_s, 2), "memory_mb": round(tree_memory(server.pids["api"]) / 1e6)}
            rows = _compare(name, server.port, TransformersPeer(folder), args.streams, args.repeats)
        print(f"\n{name}: ready after {facts['ready_s']:.1f} s, {facts['memory_mb']:.0f} MB in all processes")
        print_table(rows, ours="segue, HTTP")
        record("serve", rows, {"threads": torch.get_num_threads(), **facts, **machine()})


def _compare(name: str, port: int, peer: TransformersPeer, streams: list[int], repeats: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for num_streams in streams:
        results: dict[str, list[dict[str, float]]] = {}
        for repeat in range(-1, repeats):  # the first is a warm-up
            items = requests_for(num_streams, 30000, repeat=repeat)
            runs = {"segue, HTTP": asyncio.run(_stream_all(port, items))}
            runs["transformers, one by one"] = peer.one_by_one(items)
            if num_streams > 1:
                runs["transformers, padded batch"] = peer.padded(items)
            if repeat >= 0:
                for label, timings in runs.items():
                    results.setdefault(label, []).append(summarize(timings))
        for label, summaries in results.items():
            row = {key: median(s[key] for s in summaries) for key in summaries[0]}
            rows.append({"model": name, "streams": num_streams, "engine": label, **row})
    return rows


async def _stream_all(port: int, items: list[WorkItem]) -> list[Timing]:
    started = time.perf_counter()
    return await asyncio.gather(*(_stream(port, item, started) for item in items))


async def _stream(port: int, item: WorkItem, started: float) -> Timing:
    """One request over a plain socket: the client should cost as little of the two cores as it can."""
    parameters = {"max_new_tokens": item.max_new_tokens, "do_sample": False}
    body = json.dumps({"inputs": words(item.prompt), "parameters": parameters}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /generate_stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    times: list[float] = []
    while line := await reader.readline():
        if line.startswith(b"data:"):
            assert b'"error"' not in line, line
            times.append(time.perf_counter())
    writer.close()
    assert len(times) == item.max_new_tokens, (len(times), item.max_new_tokens)
    return Timing(started, times)


if __name__ == "__main__":
    main()
