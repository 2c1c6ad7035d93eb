"""What sampling parameters cost: the time of some streams that ask for them beside that of as many greedy ones.

    python benchmarks/sampling_cost.py --model FOLDER --streams 16

Through the engine, without HTTP, with OpenMP's waiting as a served engine has it. All kinds take turns; ratios are
medians of those to the greedy streams of the same round. Random weights give flat rows, of which top-p and typical-p
keep most: their worst case.
"""

import argparse
import json
import os
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

from segue.launcher.engine_process import engine_environment

os.environ.update(engine_environment(dict(os.environ)))  # before PyTorch starts its threads

from segue.core.config import resolve
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.engine import Engine
from segue.launcher.engine_child import build_engine

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.7},
    "temperature, top-k 50, top-p 0.9": {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
    "top-p 0.9": {"top_p": 0.9},
    "typical-p 0.9": {"typical_p": 0.9},
    "repetition penalty": {"repetition_penalty": 1.1},
    "temperature, top-p 0.9, repetition penalty": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1},
    "frequency penalty": {"frequency_penalty": 0.5},
    "presence penalty": {"presence_penalty": 0.5},
    "5 alternatives": {"top_n_tokens": 5},
    "watermark": {"watermark": True},
}
PROMPT_TOKENS = 64


class Streams:
    """The same streams again and again, with prompts that no cache holds."""

    def __init__(self, engine: Engine, info: Any, count: int, new_tokens: int) -> None:
        self._engine, self._info, self._count, self._new_tokens = engine, info, count, new_tokens
        self._random, self._number = random.Random(0), 0

    def seconds(self, params: dict[str, Any]) -> float:
        for _ in range(self._count):
            self._engine.add(self._request(params))
        started = time.perf_counter()
        while self._engine.has_work:
            step = self._engine.step()
            for output in step.outputs if step else ():
                assert output.error is None, output.error
        return time.perf_counter() - started

    def _request(self, params: dict[str, Any]) -> Request:
        self._number += 1
        ids = tuple(self._random.randrange(10, self._info.vocab_size - 10) for _ in range(PROMPT_TOKENS))
        start = self._info.decoder_start_token_ids if self._info.is_encoder_decoder else None
        return Request(
            request_id=self._number,
            prompt_token_ids=start or ids,
            encoder_token_ids=ids if start else None,
            sampling=SamplingParams(ignore_eos=True, seed=self._number, **params),
            stop=StopCriteria(max_new_tokens=self._new_tokens),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--quantize")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--results", type=Path, help="append the lines to this file too")
    given = parser.parse_args()
    config = resolve({"model_id": str(given.model), "quantize": given.quantize, "num_threads": given.threads}, {})
    streams = Streams(*build_engine(config, given.model), given.streams, given.new_tokens)
    rounds = [{name: streams.seconds(params) for name, params in KINDS.items()} for _ in range(given.repeats + 1)][1:]
    for name in KINDS:
        row = {
            "model": given.model.name,
            "quantize": given.quantize,
            "streams": given.streams,
            "asked": name,
            "seconds": round(median(each[name] for each in rounds), 3),
            "beside_greedy": round(median(each[name] / each["greedy"] for each in rounds), 2),
        }
        print(f"{row['asked']:44} {row['seconds']:7.3f} s {row['beside_greedy']:6.2f}", flush=True)
        if given.results:
            with given.results.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
