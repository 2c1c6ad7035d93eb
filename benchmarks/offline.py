"""Tokens a second without HTTP: our engine beside ``transformers.generate``, in one process, turn by turn.

    python benchmarks/offline.py --model opt-125m --streams 1 4 16 --repeats 3

Prints ratios of medians (ours to the peer's, above 1 is faster) and appends a JSON line a row to benchmarks/results/.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from checkpoints import SHAPES, checkpoint
from peers.transformers_generate import TransformersPeer
from report import machine, print_table, record
from workload import Timing, WorkItem, requests_for, summarize

from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig


class SegueOffline:
    """The engine and the runner in this process, as ``LLM`` has them."""

    def __init__(self, folder: Path) -> None:
        runner, self.facts = build_runner(RunnerConfig(model_folder=folder, device="cpu", dtype="float32"))
        self.engine = Engine(EngineConfig(num_blocks=self.facts.num_blocks, block_size=self.facts.block_size), runner)

    def run(self, items: list[WorkItem]) -> list[Timing]:
        started = time.perf_counter()
        timings = [Timing(started, []) for _ in items]
        for i, item in enumerate(items):
            self.engine.add(self._request(i, item))
        while self.engine.has_work:
            step = self.engine.step()
            now = time.perf_counter()
            for output in step.outputs if step else ():
                assert output.error is None, output.error
                timings[output.request_id].token_times.extend([now] * len(output.tokens))
        assert [len(t.token_times) for t in timings] == [item.max_new_tokens for item in items]
        return timings

    def _request(self, request_id: int, item: WorkItem) -> Request:
        seq2seq = self.facts.is_encoder_decoder
        return Request(
            request_id=request_id,
            prompt_token_ids=self.facts.decoder_start_token_ids if seq2seq else tuple(item.prompt),
            encoder_token_ids=tuple(item.prompt) if seq2seq else None,
            sampling=SamplingParams(ignore_eos=True),
            stop=StopCriteria(max_new_tokens=item.max_new_tokens),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), nargs="+", default=["opt-125m", "t5-efficient-tiny"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "segue-benchmarks")
    args = parser.parse_args()
    for name in args.model:
        _compare(name, checkpoint(name, args.cache), args.streams, args.repeats)


def _compare(name: str, folder: Path, streams: list[int], repeats: int) -> None:
    ours, peer = SegueOffline(folder), TransformersPeer(folder)
    runs: dict[str, Callable[[list[WorkItem]], list[Timing]]] = {
        "segue": ours.run,
        "transformers, one by one": peer.one_by_one,
        "transformers, padded batch": peer.padded,
    }
    rows = []
    for num_streams in streams:
        results: dict[str, list[dict[str, float]]] = {label: [] for label in runs}
        for repeat in range(-1, repeats):  # the first is a warm-up
            items = requests_for(num_streams, 30000, repeat=repeat)
            for label, run in runs.items():
                if num_streams == 1 and label.endswith("batch"):
                    continue
                summary = summarize(run(items))
                if repeat >= 0:
                    results[label].append(summary)
        for label, summaries in results.items():
            if summaries:
                row = {key: median(s[key] for s in summaries) for key in summaries[0]}
                rows.append({"model": name, "streams": num_streams, "engine": label, **row})
    print_table(rows, ours="segue")
    record("offline", rows, {"threads": torch.get_num_threads(), **machine()})


if __name__ == "__main__":
    main()
