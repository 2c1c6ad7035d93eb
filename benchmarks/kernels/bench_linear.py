"""Linear layers on packed weights beside ``F.linear``, at 1 to 512 rows.

    python benchmarks/kernels/bench_linear.py

Each shape's weights together are larger than the caches, so that small batches read them from memory. Prints GB/s of
weights, GFLOP/s and the ratio of times (above 1: packed is faster).
"""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F

from segue.kernels import ops

SHAPES = ((3072, 768), (50272, 768), (1024, 256), (2048, 2048))
ROWS = (1, 4, 16, 64, 512)
WEIGHT_BYTES = 128 * 1024**2


def seconds(run: Callable[[], object], repeats: int = 7) -> float:
    run()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


@torch.inference_mode()
def main() -> None:
    print(f"{torch.get_num_threads()} threads\n{'shape':>14} {'rows':>5} {'GB/s':>7} {'GFLOP/s':>8} {'faster':>7}")
    for shape in SHAPES:
        weights = [torch.randn(shape) for _ in range(max(1, WEIGHT_BYTES // (4 * shape[0] * shape[1])))]
        packed = [ops.pack(weight) for weight in weights]
        num_weights = len(weights) * shape[0] * shape[1]
        for rows in ROWS:
            x = torch.randn(rows, shape[1])
            plain_s = seconds(lambda x=x, ws=weights: [F.linear(x, weight) for weight in ws])
            packed_s = seconds(lambda x=x, ws=packed: [ops.linear(x, weight, None) for weight in ws])
            gb, gflop = 4 * num_weights / 1e9, 2 * rows * num_weights / 1e9
            print(f"{shape!s:>14} {rows:5} {gb / packed_s:7.1f} {gflop / packed_s:8.0f} {plain_s / packed_s:6.2f}x")


if __name__ == "__main__":
    main()
