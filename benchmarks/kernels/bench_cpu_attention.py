"""Native attention beside the plain operator: decode of 16 sequences of 100 to 350 tokens, and prefill of 1024.

    python benchmarks/kernels/bench_cpu_attention.py

Decode reads every key and value once: its bound is their bytes over the bandwidth at which as many threads read memory,
measured here. Caches of several layers together are larger than the processor's, as in a model. Prefill is arithmetic:
its rate counts the products that a causal mask leaves, and is set beside PyTorch's rate for a large float32 product
(which is no bound: it may not use all of the processor's vector width). The best of many short runs, and the time that
the thread ran where there is one, since other processes share the machine.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from segue.kernels import plain
from segue.kernels.cpu import _native, attention
from segue.kernels.metadata import AttentionMetadata, AttentionSpec
from segue.layers.attention import KVLayerSpec
from segue.runner.kv_cache import allocate, bytes_per_block

BLOCK_SIZE = 16
CACHE_BYTES = 192 * 1024**2
DECODES = tuple(100 + 250 * i // 15 for i in range(16))
PREFILL = 1024


@dataclass(frozen=True)
class Model:
    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int


MODELS = (Model("opt-125m", 12, 12, 64), Model("llama-1b", 32, 8, 64), Model("llama-1b, 4", 32, 4, 64))


def clock() -> float:
    """Seconds; with one thread those in which it ran, so that a loaded machine measures the same."""
    return time.thread_time() if _native.num_threads() == 1 else time.perf_counter()


def best(run: Callable[[], object], seconds: float) -> float:
    run()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = clock()
        run()
        least = min(least, clock() - started)
    return least


def read_bandwidth(seconds: float) -> float:
    """Bytes a second: the sum of 256 MB."""
    data = torch.ones(64 * 1024**2)
    return 4 * data.numel() / best(data.sum, seconds)


def product_rate(seconds: float) -> float:
    """FLOP a second of float32 products of 1024 x 1024."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / best(lambda: a @ b, seconds)


def metadata(query_lens: tuple[int, ...], kv_lens: tuple[int, ...]) -> AttentionMetadata:
    """Blocks in one run a sequence, as in a young server: the plain operator's best case."""
    tables, first = [], 0
    for kv_len in kv_lens:
        count = -(-kv_len // BLOCK_SIZE)
        tables.append(list(range(first, first + count)))
        first += count
    return AttentionMetadata(
        query_lens=query_lens,
        kv_lens=kv_lens,
        block_tables=tables,
        num_decodes=sum(n == 1 for n in query_lens),
        block_size=BLOCK_SIZE,
        device=torch.device("cpu"),
    )


def caches(model: Model, num_blocks: int, dtype: torch.dtype, by_heads: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Layers' keys and values, in turn for ever; in memory by heads, as the native kernels have them, or by slots."""
    layer = KVLayerSpec(model.num_kv_heads, model.head_dim, model.head_dim)
    size = bytes_per_block([layer], BLOCK_SIZE, dtype) * num_blocks
    layers = [layer] * max(1, CACHE_BYTES // size)
    filled = []
    for pair in allocate(layers, num_blocks, BLOCK_SIZE, dtype, torch.device("cpu"), by_heads=by_heads):
        keys, values = pair
        assert isinstance(keys, Tensor)
        assert isinstance(values, Tensor)
        filled.append((keys.normal_(), values.normal_()))
    return cycle(filled)


def measure(model: Model, meta: AttentionMetadata, dtype: torch.dtype, seconds: float) -> tuple[float, float]:
    """Seconds a layer: native, plain."""
    spec = AttentionSpec(num_heads=model.num_heads, num_kv_heads=model.num_kv_heads, scale=model.head_dim**-0.5)
    num_blocks = sum(len(table) for table in meta.block_tables)
    q = torch.randn(meta.query_starts[-1], model.num_heads, model.head_dim)
    layers = caches(model, num_blocks, dtype, by_heads=True)
    native = best(lambda: attention.paged_attention(q, *next(layers), meta, spec), seconds)
    layers = caches(model, num_blocks, dtype, by_heads=False)
    return native, best(lambda: plain.paged_attention(q, *next(layers), meta, spec), seconds)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="of measurement for each number")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _native.set_num_threads(options.threads)
    bandwidth, rate = read_bandwidth(options.seconds), product_rate(options.seconds)
    print(f"{options.threads} threads, {_native.isa()}, read {bandwidth / 1e9:.1f} GB/s, fp32 {rate / 1e9:.0f} GFLOP/s")
    print(f"{'model':>12} {'work':>8} {'cache':>9} {'us':>7} {'plain us':>9} {'faster':>7} {'of bound':>9}")
    for model in MODELS:
        row = 2 * model.num_kv_heads * model.head_dim
        for dtype in (torch.float32, torch.bfloat16):
            meta = metadata((1,) * len(DECODES), DECODES)
            native, plainly = measure(model, meta, dtype, options.seconds)
            bound = sum(DECODES) * row * dtype.itemsize / bandwidth
            report(model, "decode", dtype, native, plainly, bound)
        native, plainly = measure(model, metadata((PREFILL,), (PREFILL,)), torch.float32, options.seconds)
        report(model, "prefill", torch.float32, native, plainly, 2 * row_flops(model) / rate)


def row_flops(model: Model) -> float:
    """Of one of the two products of a prefill, each key of the causal half counted once."""
    return 2 * model.num_heads * model.head_dim * PREFILL * (PREFILL + 1) / 2


def report(model: Model, work: str, dtype: torch.dtype, native: float, plainly: float, bound: float) -> None:
    kind = str(dtype).removeprefix("torch.")
    print(
        f"{model.name:>12} {work:>8} {kind:>9} {native * 1e6:7.0f} {plainly * 1e6:9.0f} {plainly / native:6.2f}x"
        f" {bound / native:9.2f}"
    )


if __name__ == "__main__":
    main()
