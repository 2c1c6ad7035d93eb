"""Perplexity of a model on a text: how surprised it is by each next token, exp of the mean of -log p."""

import math
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq

__all__ = ["Score", "perplexity", "windows"]

Score = Callable[[Seq[Seq[int]]], Seq[Seq[float | None]]]
"""Windows of token ids → the natural log of each token's probability after those before it in its window; the first of
a window has none."""


def windows(token_ids: Seq[int], length: int) -> Iterator[Seq[int]]:
    """Consecutive stretches of ``length`` tokens; a last one of a single token, which predicts nothing, is left out."""
    for start in range(0, len(token_ids), length):
        stretch = token_ids[start : start + length]
        if len(stretch) > 1:
            yield stretch


def perplexity(score: Score, token_ids: Seq[int], length: int) -> float:
    """Over all tokens but the first of each window of ``length``. Raises ValueError where there is none."""
    logprobs = [logprob for row in score(list(windows(token_ids, length))) for logprob in row if logprob is not None]
    if not logprobs:
        raise ValueError("a perplexity needs a text of at least two tokens")
    return math.exp(-math.fsum(logprobs) / len(logprobs))
