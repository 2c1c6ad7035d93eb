"""The peer that everybody has: ``transformers.generate`` on the same checkpoint, in this process, without HTTP.

``one_by_one`` answers the requests in order, as a server without continuous batching does; ``padded`` runs them as one
left-padded batch until its longest member ends, counting only the tokens that were asked for.
"""

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from workload import Timing, WorkItem

__all__ = ["TransformersPeer"]


class _Clock(transformers.generation.streamers.BaseStreamer):
    """Notes when each token comes; the first call carries the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.is_prompt = True

    def put(self, value: Any) -> None:
        if self.is_prompt:
            self.is_prompt = False
        else:
            self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class TransformersPeer:
    def __init__(self, folder: Path) -> None:
        config = transformers.AutoConfig.from_pretrained(folder)
        auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        self.model = auto.from_pretrained(folder, dtype=torch.float32).eval()

    def one_by_one(self, items: list[WorkItem]) -> list[Timing]:
        started = time.perf_counter()
        return [Timing(started, self._generate([item.prompt], item.max_new_tokens)) for item in items]

    def padded(self, items: list[WorkItem]) -> list[Timing]:
        started = time.perf_counter()
        width = max(len(item.prompt) for item in items)
        rows = [[0] * (width - len(item.prompt)) + item.prompt for item in items]
        masks = [[0] * (width - len(item.prompt)) + [1] * len(item.prompt) for item in items]
        times = self._generate(rows, max(item.max_new_tokens for item in items), masks)
        return [Timing(started, times[: item.max_new_tokens]) for item in items]

    def _generate(
        self, rows: list[list[int]], max_new_tokens: int, masks: list[list[int]] | None = None
    ) -> list[float]:
        clock = _Clock()
        with torch.inference_mode():
            self.model.generate(
                torch.tensor(rows),
                attention_mask=torch.tensor(masks or [[1] * len(row) for row in rows]),
                max_new_tokens=max_new_tokens,
                min_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=None,
                pad_token_id=0,
                streamer=None if len(rows) > 1 else clock,
                stopping_criteria=[_Tick(clock)] if len(rows) > 1 else None,
            )
        return clock.times


class _Tick(transformers.StoppingCriteria):
    """transformers streams only one row; for a batch the moment of the stopping check stands for its tokens'."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.clock.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)
