"""Segue on the workloads of the peers' scripts, without HTTP: a JSON line a workload, in the peers' own form.

    python benchmarks/cpu/segue_rows.py --workloads workloads.json --models models --model llama-1b --bits int8

``decode``: prompt 128, 128 new tokens, one stream. ``prefill``: prompt 1024, one new. ``throughput``: 16 requests at
once; with ``--streams 1,2,4,8,16`` the first so many of them, a line each, for ``compare.py --plot``. ``of_bound`` is a
plain read of the weights' bytes beside a step of one stream, each step between two reads: the median of their ratios.
Prompts begin differently in every repeat, so that no prefix cache helps. Medians. Before them every block of the cache
was used once.
"""

import argparse
import json
import os
import random
import resource
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.gathering import GATHERING
from segue.kernels.cpu import _native
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig

CONFIGS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
MAX_TOKENS = 16 * 400
FILL_TOKENS = 400


class Offline:
    def __init__(self, folder: Path, bits: str, kv_cache_dtype: str, threads: int) -> None:
        started = time.perf_counter()
        config = RunnerConfig(
            model_folder=folder,
            device="cpu",
            num_threads=threads,
            max_batch_total_tokens=MAX_TOKENS,
            kv_cache_dtype=kv_cache_dtype,
            **CONFIGS[bits],
        )
        runner, self.facts = build_runner(config)
        self.layers = packed_layers(runner.model)
        engine_config = EngineConfig(
            num_blocks=self.facts.num_blocks,
            block_size=self.facts.block_size,
            run_ahead=GATHERING if runner.can_run_ahead else None,
        )
        self.engine = Engine(engine_config, runner)
        self.load_s = time.perf_counter() - started
        self._fill_pool()

    def _fill_pool(self) -> None:
        """Use each block of the cache once, as a server has that runs for a minute: the system clears fresh pages at
        1 to 2 GB/s, which peers that write their whole cache at the start pay there."""
        rng = random.Random(0)
        size = self.facts.block_size
        num_sequences = -(-self.facts.num_blocks * size // FILL_TOKENS)
        prompts = [[rng.randrange(300, 20000) for _ in range(FILL_TOKENS - size)] for _ in range(num_sequences)]
        self.run([(ids, 1) for ids in prompts])

    def run(self, requests: list[tuple[list[int], int]]) -> tuple[float, float, int]:
        """(seconds to the first token, to the last, their number), all requests arriving together."""
        started = time.perf_counter()
        self._add(requests)
        times: list[float] = []
        while self.engine.has_work:
            count = self._step()
            times += [time.perf_counter() - started] * count
        return times[0], times[-1], len(times)

    def step_beside_reads(self, request: tuple[list[int], int]) -> tuple[float, float]:
        """(bytes a second of a plain read of the packed weights, that read's time beside a step's): medians.

        Within a minute a guest's memory may go from 35 to 77 GB/s, so that only neighbours can be compared.
        """
        self._add([request])
        while self._step() == 0:  # the prompt
            pass
        reads, steps = [_native.measure_read_seconds(self.layers)], []
        while self.engine.has_work:
            started = time.perf_counter()
            count = self._step()
            steps.append((time.perf_counter() - started) / max(count, 1))
            reads.append(_native.measure_read_seconds(self.layers))
        ratios = [sum(around) / 2 / step for around, step in zip(pairwise(reads), steps, strict=True)]
        return sum(layer.num_bytes for layer in self.layers) / median(reads), median(ratios)

    def _add(self, requests: list[tuple[list[int], int]]) -> None:
        for number, (ids, num_new) in enumerate(requests):
            self.engine.add(self._request(number, ids, num_new))

    def _step(self) -> int:
        """The number of its tokens."""
        step = self.engine.step()
        outputs = step.outputs if step else ()
        for output in outputs:
            assert output.error is None, output.error
        return sum(len(output.tokens) for output in outputs)

    def _request(self, number: int, ids: list[int], num_new: int) -> Request:
        seq2seq = self.facts.is_encoder_decoder
        return Request(
            request_id=number,
            prompt_token_ids=self.facts.decoder_start_token_ids if seq2seq else tuple(ids),
            encoder_token_ids=tuple(ids) if seq2seq else None,
            sampling=SamplingParams(ignore_eos=True),
            stop=StopCriteria(max_new_tokens=num_new),
        )


def packed_layers(model: Any) -> list[_native.PackedLinear]:
    modules = getattr(model, "model", model).modules()
    layers = [getattr(module, "packed", None) for module in modules]
    return [layer for layer in layers if isinstance(layer, _native.PackedLinear)]


def varied(ids: list[int], repeat: int) -> list[int]:
    return [*ids[:1], (ids[1] + 17 * (repeat + 1)) % 20000 + 300, *ids[2:]]


def measure(
    engine: Offline, workloads: dict[str, Any], only: list[str], repeats: int, streams: list[int]
) -> list[tuple[str, dict[str, float]]]:
    found: list[tuple[str, dict[str, float]]] = []

    def runs(requests: list[tuple[list[int], int]]) -> list[tuple[float, float, int]]:
        return [engine.run([(varied(ids, repeat), n) for ids, n in requests]) for repeat in range(-1, repeats)][1:]

    if "decode" in only:
        work = workloads["decode"]
        ids, num_new = work["prompt"]["ids"], work["new_tokens"]
        made = runs([(ids, num_new)])
        rates = [(count - 1) / (last - first) for first, last, count in made]
        ttft_ms = 1e3 * median(m[0] for m in made)
        row = {"decode_tps": median(rates), "best_tps": max(rates), "ttft_ms": ttft_ms}
        if not engine.facts.is_encoder_decoder:  # whose steps leave the encoder's weights alone
            read, row["of_bound"] = engine.step_beside_reads((varied(ids, repeats), num_new))
            row["weights_gb_s"] = read / 1e9
        found.append(("decode", row))
    if "prefill" in only and "prefill" in workloads:
        ids = workloads["prefill"]["prompt"]["ids"]
        made = runs([(ids, 1)])
        found.append(("prefill", {"prefill_tps": len(ids) / median(first for first, _, _ in made)}))
    if "throughput" in only:
        requests = [(work["prompt"]["ids"], work["new_tokens"]) for work in workloads["throughput"]]
        for number in streams or [len(requests)]:
            made = runs(requests[:number])
            rate = {"tput_tps": median(count / last for _, last, count in made)}
            found.append(("throughput", rate | {"streams": number} if streams else rate))
    return found


def name(given: argparse.Namespace) -> str:
    """Ours, with what is not as usual."""
    cache = None if given.kv_cache_dtype == "auto" else f"{given.kv_cache_dtype} cache"
    unusual = [each for each in (given.checkpoint, cache) if each is not None]
    return f"segue ({', '.join(unusual)})" if unusual else "segue"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="the folder that holds the checkpoints")
    parser.add_argument("--model", required=True)
    parser.add_argument("--checkpoint", help="another folder name for the model, e.g. with weights of another dtype")
    parser.add_argument("--bits", choices=CONFIGS, required=True)
    parser.add_argument("--kv-cache-dtype", default="auto", help="as segue serve's; peers have their own defaults")
    parser.add_argument("--only", default="decode,prefill,throughput")
    parser.add_argument("--streams", default="", help="numbers of concurrent requests for throughput, e.g. 1,2,4,8,16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", type=Path, help="append the lines to this file too")
    given = parser.parse_args()
    workloads = json.loads(given.workloads.read_text())[given.model]
    engine = Offline(given.models / (given.checkpoint or given.model), given.bits, given.kv_cache_dtype, given.threads)
    bounds = {
        "read_gb_s": round(_native.measure_read_bandwidth(512 * 2**20) / 1e9, 1),
        "fp32_gflop_s": round(2 * _native.measure_multiplications(False) / 1e9),
        "int8_gop_s": round(2 * _native.measure_multiplications(True) / 1e9),
    }
    streams = [int(number) for number in given.streams.split(",") if number]
    for workload, numbers in measure(engine, workloads, given.only.split(","), given.repeats, streams):
        row = {
            "peer": name(given),
            "model": given.model,
            "dtype": given.bits,
            "workload": workload,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "load_s": round(engine.load_s, 2),
            "threads": given.threads,
            "isa": _native.isa(),
            **bounds,
            **{key: round(value, 2) for key, value in numbers.items()},
        }
        line = json.dumps(row)
        print(line, flush=True)
        if given.results:
            with given.results.open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
