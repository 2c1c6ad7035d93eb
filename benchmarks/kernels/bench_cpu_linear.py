"""Native matrix products beside this machine's bounds and PyTorch's own.

    python benchmarks/kernels/bench_cpu_linear.py --kinds f32 i8 i4 --rows 1 16 1024

Copies of each weight are together larger than the caches, so that small batches read them from memory. A line gives
microseconds a product, GB/s of packed bytes and GFLOP/s, each with its part of what this machine can do (bytes from
memory, multiply-adds on cached data: float32 for float activations, int8 for integer ones), and how many times faster
than PyTorch's float32 products (F.linear, and oneDNN on prepacked weights) it was. Times are the 5th percentile of
many, since the machine may be busy; with --threads 1 they are processor time, which others do not add to.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import onednn
from segue.kernels.cpu import _native
from segue.kernels.cpu.linear import NF4, pack_float, quantize

# name: (n, k, gated)
SHAPES = {
    "llama-o": (2048, 2048, False),
    "llama-qkv": (2560, 2048, False),
    "llama-gate-up": (11264, 2048, True),
    "llama-down": (2048, 5632, False),
    "llama-head": (32000, 2048, False),
    "opt-qkv": (2304, 768, False),
    "opt-fc1": (3072, 768, False),
    "opt-fc2": (768, 3072, False),
    "opt-head": (50272, 768, False),
    "t5-q": (256, 256, False),
    "t5-wi": (1024, 256, False),
    "t5-head": (32128, 256, False),
}
KINDS: dict[str, Callable[[Tensor, bool], _native.PackedLinear]] = {
    "f32": lambda w, gated: pack_float(w, gated=gated),
    "bf16": lambda w, gated: pack_float(w, kind="bf16", gated=gated),
    "f16": lambda w, gated: pack_float(w, kind="f16", gated=gated),
    "i8": lambda w, gated: quantize(w, "i8", gated=gated),
    "i8w": lambda w, gated: quantize(w, "i8w", gated=gated),
    "i4": lambda w, gated: quantize(w, "i4", group=128, gated=gated),
    "i4-32": lambda w, gated: quantize(w, "i4", group=32, gated=gated),
    "i4-zeros": lambda w, gated: quantize(w, "i4", group=128, has_zeros=True, gated=gated),
    "i4w": lambda w, gated: quantize(w, "i4w", group=128, gated=gated),
    "nf4": lambda w, gated: quantize(w, "i4w", group=64, table=NF4, gated=gated),
}


@dataclass(frozen=True)
class Bounds:
    bytes_per_s: float
    flop_per_s: float
    int_op_per_s: float


def bounds() -> Bounds:
    return Bounds(
        _native.measure_read_bandwidth(512 * 1024**2),
        2 * _native.measure_multiplications(False),
        2 * _native.measure_multiplications(True),
    )


def seconds(runs: Sequence[Callable[[], object]], budget_s: float) -> float:
    """The time of a run, each timed alone: one that only a twentieth was quicker than."""
    clock = time.thread_time if _native.num_threads() == 1 else time.perf_counter
    times: list[float] = []
    left = budget_s
    while left > 0 or len(times) < 3:
        for run in runs:
            started = clock()
            run()
            times.append(clock() - started)
            left -= times[-1]
    return sorted(times)[len(times) // 20]


def product(weight: _native.PackedLinear, x: Tensor, out: Tensor, activation: str) -> Callable[[], object]:
    """The call without the wrapper's checks, which cost microseconds."""
    shape = (x.data_ptr(), x.stride(0), x.shape[0], out.data_ptr(), out.stride(0), activation)
    return lambda: _native.linear(weight, *shape)


def measure(kind: str, shape: str, rows: int, options: argparse.Namespace) -> float:
    """Prints a line; returns microseconds."""
    n, k, gated = SHAPES[shape]
    first = KINDS[kind](torch.randn(n, k) * 0.02, gated)
    copies = max(1, min(200, options.megabytes * 1024**2 // first.num_bytes)) if rows <= 64 else 1
    weights = [first, *(KINDS[kind](torch.randn(n, k) * 0.02, gated) for _ in range(copies - 1))]
    x, out = torch.randn(rows, k), torch.empty(rows, n // 2 if gated else n)
    activation = "silu" if gated else "none"

    took = seconds([product(weight, x, out, activation) for weight in weights], options.budget)
    limits: Bounds = options.bounds
    gigabytes, gigaflop = first.num_bytes / took / 1e9, 2 * rows * n * k / took / 1e9
    peak = limits.int_op_per_s if kind.startswith(("i8", "i4")) and kind[-1] != "w" else limits.flop_per_s
    line = f"{kind:>8} {shape:>14} {rows:5} {took * 1e6:9.1f} us"
    line += f" {gigabytes:6.1f} GB/s {gigabytes * 1e9 / limits.bytes_per_s:5.2f}"
    line += f" {gigaflop:7.0f} GFLOP/s {gigaflop * 1e9 / peak:5.2f}"
    if options.torch:
        peers = [torch.randn(n, k) for _ in range(max(1, min(copies, options.megabytes * 1024**2 // (4 * n * k))))]
        packed = [onednn.pack(weight) for weight in peers]
        plain_s = seconds([partial(F.linear, x, weight) for weight in peers], options.budget)
        onednn_s = seconds([partial(onednn.linear, x, weight, None) for weight in packed], options.budget)
        line += f" {plain_s / took:6.2f}x F.linear {onednn_s / took:6.2f}x oneDNN"
    print(line, flush=True)
    return took * 1e6


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["f32", "bf16", "i8", "i4"])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16, 128, 1024])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--isa", choices=_native.available_isas(), default=_native.isa())
    parser.add_argument("--megabytes", type=int, default=128, help="of copies of a weight, more than the caches hold")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds a measurement")
    parser.add_argument("--no-torch", dest="torch", action="store_false")
    options = parser.parse_args()
    _native.use_isa(options.isa)
    _native.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    limits = options.bounds = bounds()
    print(
        f"{options.threads} threads, {options.isa}: {limits.bytes_per_s / 1e9:.1f} GB/s read, "
        f"{limits.flop_per_s / 1e9:.0f} GFLOP/s float32, {limits.int_op_per_s / 1e9:.0f} GOP/s int8"
    )
    for kind in options.kinds:
        for shape in options.shapes:
            for rows in options.rows:
                measure(kind, shape, rows, options)


if __name__ == "__main__":
    main()
