"""Loading of weights against reading them: seconds, and the ratio of the two.

    python benchmarks/load.py --model FOLDER --quantize int8 --threads 2

The bound is one read of the checkpoint's files, from the page cache into fresh memory, by as many threads as load the
model. Loaded is a runner's model: weights read, rounded and packed, ready to run; without and, in a second round, with
the packed weights that the first round left in ``--cache``. Rounds take turns; the best of each counts, since what
else runs on the machine only adds.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from segue.models.config import HFConfig
from segue.models.loader import load_weights
from segue.models.registry import find_family
from segue.models.weight_files import weight_files
from segue.quantization.formats import find_quantization
from segue.runner.memory import return_freed_memory
from segue.runner.native_model import use_threads

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--quantize")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    use_threads(args.threads)
    return_freed_memory()
    files = weight_files(args.model)
    size = sum(file.stat().st_size for file in files)
    times: dict[str, list[float]] = {"read": [], "packed anew": [], "from the cache": []}
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        _load(args.model, args.quantize, cache)
        _wait_for_writers()
        for _ in range(args.repeats):
            times["read"].append(_timed(lambda: [_read(file, args.threads) for file in files]))
            times["packed anew"].append(_timed(lambda: _load(args.model, args.quantize, None)))
            times["from the cache"].append(_timed(lambda: _load(args.model, args.quantize, cache)))
    read = min(times["read"])
    print(f"{args.model.name}, {args.quantize or 'as it is'}: {size / 1e9:.2f} GB, {size / read / 1e9:.2f} GB/s")
    for label, seconds in times.items():
        print(f"{label:16} {min(seconds):7.3f} s  {min(seconds) / read:5.2f}")


def _load(folder: Path, quantize: str | None, cache: Path | None) -> None:
    config = HFConfig.from_folder(folder)
    family = find_family(config)
    assert family is not None
    quantization = find_quantization(folder, config.values, quantize)
    load_weights(family(config), folder, dtype=torch.float32, device=CPU, quantization=quantization, cache_folder=cache)


def _wait_for_writers() -> None:
    for thread in threading.enumerate():
        if thread.name == "weight-cache":
            thread.join()


def _read(file: Path, num_threads: int) -> None:
    size = file.stat().st_size
    data = torch.empty(size, dtype=torch.uint8).numpy().data
    part = -(-size // num_threads)

    def read(start: int) -> None:
        with file.open("rb", buffering=0) as handle:
            handle.seek(start)
            target = data[start : start + part]
            while target:
                target = target[handle.readinto(target) :]

    threads = [threading.Thread(target=read, args=(i * part,)) for i in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
