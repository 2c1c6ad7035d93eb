"""What guessing gains and costs: tokens a step and a second, with it and without, in one process, turn by turn.

    python benchmarks/speculation.py --model opt-125m --speculate 4 --streams 1 4 16

Two texts: "repeats" is greedy, which random weights soon turn into a loop, so that guesses come true; "news" is sampled
and hardly ever says the same twice, so that guesses are rare and wrong. ``--curve`` measures instead how long a step of
1, 2, 4, … tokens takes, which is what ``MAX_STEP_TOKENS`` in launcher/speculation.py comes from.

Prints medians and ratios to the same turn without guesses, and appends a JSON line a row to benchmarks/results/.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from checkpoints import SHAPES, checkpoint
from report import machine, record
from workload import WorkItem, requests_for

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.launcher.speculation import max_step_tokens
from segue.runner.build import ModelFacts, build_runner
from segue.runner.config import RunnerConfig
from segue.runner.model_runner import ModelRunner

SAMPLING = {
    "repeats": SamplingParams(ignore_eos=True),
    "news": SamplingParams(ignore_eos=True, do_sample=True, seed=1),
}


@dataclass
class Turn:
    tokens: list[list[int]]
    num_outputs: int
    """Times that a stream got something."""
    wall_s: float

    @property
    def tokens_per_s(self) -> float:
        return sum(map(len, self.tokens)) / self.wall_s

    @property
    def tokens_per_step(self) -> float:
        """Of one stream."""
        return sum(map(len, self.tokens)) / self.num_outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--speculate", type=int, default=4)
    parser.add_argument("--draft", type=Path, help="folder of a draft model")
    parser.add_argument("--step-tokens", type=int, help="other than MAX_STEP_TOKENS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "segue-benchmarks")
    args = parser.parse_args()
    folder = checkpoint(args.model, args.cache)
    runner, facts = build_runner(
        RunnerConfig(model_folder=folder, draft_model_folder=args.draft, device=args.device, dtype=args.dtype)
    )
    if args.curve:
        rows = _curve(args.model, runner, args.repeats)
    else:
        step_tokens = args.step_tokens or max_step_tokens(facts)
        rows = [row for n in args.streams for row in _compare(args, runner, facts, n, step_tokens)]
    record("speculation", rows, {"threads": torch.get_num_threads(), "dtype": args.dtype, **machine()})


def _compare(
    args: argparse.Namespace, runner: ModelRunner, facts: ModelFacts, num_streams: int, step_tokens: int
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for text, sampling in SAMPLING.items():
        turns: list[tuple[Turn, Turn]] = []
        for repeat in range(-1, args.repeats):  # the first is a warm-up
            items = requests_for(num_streams, facts.vocab_size, repeat=repeat)
            plain = _run(_engine(runner, facts, 0, step_tokens), facts, items, sampling)
            guessed = _run(_engine(runner, facts, args.speculate, step_tokens), facts, items, sampling)
            assert guessed.tokens == plain.tokens, "guesses changed the answer"
            if repeat >= 0:
                turns.append((plain, guessed))
        row = {
            "model": args.model,
            "streams": num_streams,
            "text": text,
            "guesses": "draft model" if args.draft else "lookup",
            "speculate": args.speculate,
            "step_tokens": step_tokens,
            "tokens_per_step": median(guessed.tokens_per_step for _, guessed in turns),
            "tokens_per_s": median(guessed.tokens_per_s for _, guessed in turns),
            "ratio": median(guessed.tokens_per_s / plain.tokens_per_s for plain, guessed in turns),
        }
        print(
            "{model:18} {streams:3} streams  {text:8} {guesses} of {speculate}: {tokens_per_step:5.2f} tokens a step, "
            "{tokens_per_s:8.1f} tokens/s, {ratio:5.2f}x".format(**row)
        )
        rows.append(row)
    return rows


def _engine(runner: ModelRunner, facts: ModelFacts, speculate: int, step_tokens: int) -> Engine:
    return Engine(
        EngineConfig(
            num_blocks=facts.num_blocks,
            block_size=facts.block_size,
            enable_prefix_caching=False,
            num_speculative_tokens=speculate,
            max_speculative_step_tokens=step_tokens,
            has_draft_model=runner.drafter is not None,
        ),
        runner,
    )


def _run(engine: Engine, facts: ModelFacts, items: list[WorkItem], sampling: SamplingParams) -> Turn:
    seq2seq = facts.is_encoder_decoder
    for i, item in enumerate(items):
        engine.add(
            Request(
                request_id=i,
                prompt_token_ids=facts.decoder_start_token_ids if seq2seq else tuple(item.prompt),
                encoder_token_ids=tuple(item.prompt) if seq2seq else None,
                sampling=sampling,
                stop=StopCriteria(max_new_tokens=item.max_new_tokens),
            )
        )
    tokens: list[list[int]] = [[] for _ in items]
    num_outputs = 0
    started = time.perf_counter()
    while engine.has_work:
        step = engine.step()
        for output in step.outputs if step else ():
            assert output.error is None, output.error
            num_outputs += 1
            tokens[output.request_id] += [token.token_id for token in output.tokens]
    return Turn(tokens, num_outputs, time.perf_counter() - started)


def _curve(model: str, runner: ModelRunner, repeats: int) -> list[dict[str, object]]:
    """A sequence of 200 tokens goes on by 1, 2, 4, … tokens, all of them sampled after."""
    counts = [1, 2, 3, 5, 9, 17, 33, 65]
    times: dict[int, list[float]] = {count: [] for count in counts}
    history = [10 + i * 7 % 1000 for i in range(200)]
    blocks = list(range(-(-(len(history) + max(counts)) // runner.block_size)))
    for _ in range(10 * repeats):
        for count in counts:
            sequence = ScheduledSequence(
                seq_id=0,
                token_ids=[history[-1], *range(20, 19 + count)],
                num_computed_tokens=len(history) - 1,
                block_table=blocks,
                sampling=SamplingParams(),
                needs_token=True,
                history=history,
                num_prompt_tokens=10,
                seed=0,
                num_draft_tokens=count - 1,
            )
            started = time.perf_counter()
            runner.execute(ScheduledBatch(sequences=[sequence], num_decode_sequences=int(count == 1)))
            times[count].append(time.perf_counter() - started)
    rows: list[dict[str, object]] = []
    for count in counts:
        ratio = median(b / a for a, b in zip(times[1], times[count], strict=True))
        rows.append({"model": model, "curve_tokens": count, "step_ms": 1e3 * median(times[count]), "ratio": ratio})
        print(
            f"{model:18} a step of {count:3} tokens: {1e3 * median(times[count]):7.2f} ms, {ratio:5.2f} of one token's"
        )
    return rows


if __name__ == "__main__":
    main()
