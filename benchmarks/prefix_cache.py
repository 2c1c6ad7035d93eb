"""A prompt that the cache holds already: time to its first token, in decode steps.

    python benchmarks/prefix_cache.py --model FOLDER --tokens 2000

Through the engine, without HTTP. A warm prompt computes its last tokens only, so it should take little more than the
decode step that follows it; what it takes more is hashing, block tables and the end of its last block. Of an
encoder-decoder the source is as long, and a warm one skips the encoder. Prints medians, the first (cold) time beside
them; ``--profile`` prints where the engine's Python spends its time.
"""

import argparse
import cProfile
import itertools
import pstats
import random
import time
from pathlib import Path
from statistics import median

from segue.core.config import resolve
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.engine import Engine
from segue.launcher.engine_child import build_engine

NEW_TOKENS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quantize")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    for folder in args.model:
        given = {"model_id": str(folder), "quantize": args.quantize, "num_threads": args.threads}
        engine, info = build_engine(resolve(given, {}), folder)
        limit = (info.max_total_tokens or args.tokens + NEW_TOKENS) - NEW_TOKENS
        ids = random.Random(0)
        prompt = tuple(ids.randrange(10, info.vocab_size - 10) for _ in range(min(args.tokens, limit)))
        start = info.decoder_start_token_ids if info.is_encoder_decoder else None
        cold = _run(engine, prompt, start)
        profiler = cProfile.Profile()
        if args.profile:
            profiler.enable()
        warm = [_run(engine, prompt, start) for _ in range(args.repeats)]
        profiler.disable()
        first, step = median(times[0] for times in warm), median(gap for times in warm for gap in times[1:])
        print(
            f"{folder.name}: {len(prompt)} tokens, cold {1e3 * cold[0]:.1f} ms; warm {1e3 * first:.2f} ms, "
            f"a decode step {1e3 * step:.2f} ms: {first / step:.2f} steps"
        )
        if args.profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def _run(engine: Engine, prompt: tuple[int, ...], start: tuple[int, ...] | None) -> list[float]:
    """Seconds to the first token, and from each to the next."""
    request = Request(
        request_id=0,
        prompt_token_ids=prompt if start is None else start,
        encoder_token_ids=None if start is None else prompt,
        sampling=SamplingParams(ignore_eos=True),
        stop=StopCriteria(max_new_tokens=NEW_TOKENS),
    )
    times = [time.perf_counter()]
    engine.add(request)
    while engine.has_work:
        step = engine.step()
        if step is not None and any(output.tokens for output in step.outputs):
            times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


if __name__ == "__main__":
    main()
