"""Loading of weights against reading them: seconds, and the ratio of the two.

    python benchmarks/load.py --model FOLDER --quantize int8 --threads 2

The bound is one read of the checkpoint's files into fresh memory, by as many threads as load the model. `read again`
reads into memory that is there already: in virtual machines, where fresh memory comes dear, a small part of that.
Loaded is a runner's model: weights read, rounded and packed, ready to run; without, and from the packed weights that a
first round left. With ``--cold`` the files' pages are taken from the page cache before each of these. Rounds take
turns; a ratio is the median of the rounds' own. Lines are appended to benchmarks/results/load.jsonl.
"""

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from report import machine, record

from segue.models.base import Model
from segue.models.config import HFConfig
from segue.models.loader import load_weights
from segue.models.registry import find_family
from segue.models.weight_files import weight_files
from segue.quantization.formats import find_quantization
from segue.runner.memory import return_freed_memory
from segue.runner.native_model import use_threads

CPU = torch.device("cpu")
BUFFER_BYTES = 16 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--quantize")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    use_threads(args.threads)
    return_freed_memory()
    files = weight_files(args.model)
    size = sum(file.stat().st_size for file in files)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        _load(args.model, args.quantize, cache)
        _wait_for_writers()
        measured: dict[str, Callable[[], object]] = {
            "read": lambda: [_read(file, args.threads) for file in files],
            "read again": lambda: [_read(file, args.threads, BUFFER_BYTES) for file in files],
            "packed anew": lambda: _load(args.model, args.quantize, None),
            "from the cache": lambda: _load(args.model, args.quantize, cache),
        }
        for _ in range(args.repeats):
            for what, work in measured.items():
                if args.cold:
                    _forget([*files, *cache.iterdir()])
                times.setdefault(what, []).append(_timed(work))
    label = f"{args.model.name}, {args.quantize or 'as it is'}{', cold' if args.cold else ''}"
    print(f"{label}: {size / 1e9:.2f} GB, {size / min(times['read']) / 1e9:.2f} GB/s")
    rows = []
    for what, seconds in times.items():
        ratio = statistics.median(mine / read for mine, read in zip(seconds, times["read"], strict=True))
        print(f"{what:16} {statistics.median(seconds):7.3f} s  best {min(seconds):7.3f} s  {ratio:5.2f} of reading")
        rows.append({"what": what, "median_s": statistics.median(seconds), "best_s": min(seconds), "ratio": ratio})
    facts = {"model": args.model.name, "quantize": args.quantize, "gigabytes": round(size / 1e9, 3), "cold": args.cold}
    command = shlex.join(["python", *sys.argv])
    record("load", rows, {**facts, "threads": args.threads, "command": command, **machine()})


def _load(folder: Path, quantize: str | None, cache: Path | None) -> Model:
    config = HFConfig.from_folder(folder)
    family = find_family(config)
    assert family is not None
    quantization = find_quantization(folder, config.values, quantize)
    model = family(config)
    load_weights(model, folder, dtype=torch.float32, device=CPU, quantization=quantization, cache_folder=cache)
    return model


def _wait_for_writers() -> None:
    for thread in threading.enumerate():
        if thread.name == "weight-cache":
            thread.join()


def _forget(files: Iterable[Path]) -> None:
    """Take the files' pages from the page cache."""
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(file: Path, num_threads: int, buffer_bytes: int | None = None) -> memoryview | None:
    """Into memory for all of it, which is returned, or again and again into ``buffer_bytes`` of each thread."""
    size = file.stat().st_size
    part = -(-size // num_threads)
    data = None if buffer_bytes else torch.empty(size, dtype=torch.uint8).numpy().data

    def read(start: int) -> None:
        stop = min(start + part, size)
        with file.open("rb", buffering=0) as handle:
            handle.seek(start)
            target = memoryview(bytearray(buffer_bytes or 0)) if data is None else data[start:stop]
            while start < stop:
                start += handle.readinto(target[: stop - start])
                if data is not None:
                    target = data[start:stop]

    threads = [threading.Thread(target=read, args=(i * part,)) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return data


def _timed(work: Callable[[], object]) -> float:
    """Without the time that giving back the memory of the result takes."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    del result
    return seconds


if __name__ == "__main__":
    main()
