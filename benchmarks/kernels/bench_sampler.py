"""Time of one ``Sampler.sample`` beside plain torch, one JSON line a case.

    PYTHONPATH=src python benchmarks/kernels/bench_sampler.py [--rows 16] [--vocab-size 50257] [--device cpu]

Times are the best of ``--repeats``, in milliseconds, results on the host included.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segue.core.request import SamplingParams
from segue.sampling.sampler import Sampler, SamplingRow

HISTORY_TOKENS = 512
CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sample": {"do_sample": True},
    "temperature": {"temperature": 0.7},
    "repetition_penalty": {"repetition_penalty": 1.2},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "watermark": {"watermark": True},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.95},
    "top_k+top_p": {"top_k": 50, "top_p": 0.95},
    "typical_p": {"typical_p": 0.95},
    "top_n_tokens": {"top_n_tokens": 5},
}


def plain_providers(logits: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "argmax", lambda: logits.argmax(-1).tolist()
    yield "softmax+multinomial", lambda: logits.softmax(-1).multinomial(1).tolist()
    yield "log_softmax", lambda: logits.log_softmax(-1)[:, 0].tolist()
    yield "logsumexp", lambda: logits.logsumexp(-1).tolist()
    yield "sort", lambda: logits.sort(-1).values[:, 0].tolist()
    yield "sort by numpy", lambda: np.sort(logits.float().cpu().numpy(), axis=-1)[:, 0].tolist()
    yield "topk(50)", lambda: logits.topk(50).indices[:, 0].tolist()


def best_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return round(min(times) * 1e3, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--vocab-size", type=int, default=50257)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--scale", type=float, default=4.0, help="standard deviation of the logits: smaller is flatter")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(args.rows, args.vocab_size, generator=generator) * args.scale
    logits = logits.to(args.device, getattr(torch, args.dtype))
    history = torch.randint(args.vocab_size, (HISTORY_TOKENS,), generator=generator).tolist()
    sampler = Sampler(args.vocab_size)

    def sampled(params: dict[str, Any]) -> Callable[[], object]:
        settings = SamplingParams(**params)
        rows = [SamplingRow(settings, history, seed, HISTORY_TOKENS) for seed in range(args.rows)]
        return lambda: sampler.sample(logits, rows)

    providers = [(f"torch: {name}", call) for name, call in plain_providers(logits)]
    providers += [(f"segue: {name}", sampled(params)) for name, params in CASES.items()]
    setting = {
        "device": torch.cuda.get_device_name() if logits.is_cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "shape": list(logits.shape),
        "dtype": args.dtype,
        "scale": args.scale,
    }
    for name, call in providers:
        print(json.dumps({"provider": name, "ms": best_ms(call, args.repeats), **setting}))


if __name__ == "__main__":
    main()
