"""The fixed requests that every engine gets, and what is measured of them."""

import random
from dataclasses import dataclass
from statistics import median

__all__ = ["Timing", "WorkItem", "requests_for", "summarize"]


@dataclass(frozen=True)
class WorkItem:
    prompt: list[int]
    max_new_tokens: int


@dataclass
class Timing:
    """One request, in seconds since the run began."""

    started: float
    token_times: list[float]

    @property
    def ttft(self) -> float:
        return self.token_times[0] - self.started

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.token_times, self.token_times[1:], strict=False)]


def requests_for(num_streams: int, vocab_size: int, *, repeat: int = 0) -> list[WorkItem]:
    """``num_streams`` requests, prompts of 32–256 tokens, 64–128 new ones; the same list at every call.

    Each ``repeat`` has other token ids at the same lengths, so that no prefix cache helps.
    """
    shapes = random.Random(7)
    lens = [(shapes.randint(32, 256), shapes.randint(64, 128)) for _ in range(num_streams)]
    ids = random.Random(1000 * repeat + num_streams)
    return [WorkItem([ids.randrange(10, vocab_size) for _ in range(n)], new) for n, new in lens]


def summarize(timings: list[Timing]) -> dict[str, float]:
    """Tokens a second over the whole run, medians of time to first token and between tokens (in ms)."""
    num_tokens = sum(len(t.token_times) for t in timings)
    wall = max(t.token_times[-1] for t in timings) - min(t.started for t in timings)
    gaps = [gap for t in timings for gap in t.gaps]
    return {
        "tokens_per_s": num_tokens / wall,
        "ttft_ms": 1e3 * median(t.ttft for t in timings),
        "itl_ms": 1e3 * median(gaps) if gaps else 0.0,
    }
