"""The shortest prefix of a sorted vocabulary that holds enough probability: the core of top-p and typical-p."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Boundary", "boundary"]

_NARROW = 256
"""On a CPU a full sort of 16 x 50,257 took 50 ms and the best 256 took 2 ms (benchmarks/kernels/bench_sampler.py)."""


@dataclass(frozen=True, slots=True)
class Boundary:
    score: Tensor
    """[n, 1]: the score at which the prefix reaches the target."""
    num_ties: Tensor
    """[n, 1] int64: how many of the ids with that score it needs, at least one."""


def boundary(scores: Tensor, weights: Tensor, target: Tensor, *, limit: int | None = None) -> Boundary:
    """Walks ids in ascending order of score until their weights add up to the target.

    ``scores``: [n, vocab] float32; ``weights``: [n, vocab] int64, not negative; ``target``: [n, 1] int64, between 1 and
    the row's sum. ``limit``: promises that the walk ends within the ``limit`` lowest scores or on a tie with the last.
    """
    vocab_size = scores.shape[-1]
    if limit is not None and limit < vocab_size:
        return _walk(*scores.topk(limit, largest=False), weights, target)
    if scores.device.type != "cpu" or vocab_size <= 4 * _NARROW:
        return _walk(*scores.sort(-1), weights, target)
    lowest, ids = scores.topk(_NARROW, largest=False)
    found = _walk(lowest, ids, weights, target)
    is_short = weights.gather(-1, ids).sum(-1) < target.squeeze(-1)
    if is_short.any():
        rows = is_short.nonzero().squeeze(-1)
        rest = _walk(*scores[rows].sort(-1), weights[rows], target[rows])
        found.score[rows], found.num_ties[rows] = rest.score, rest.num_ties
    return found


def _walk(scores: Tensor, ids: Tensor, weights: Tensor, target: Tensor) -> Boundary:
    """``scores``: [n, m] ascending, with their ``ids``."""
    ordered = weights.gather(-1, ids)
    num_before = (ordered.cumsum(-1) < target).sum(-1, keepdim=True)
    last = num_before.clamp_(max=scores.shape[-1] - 1)
    score = scores.gather(-1, last)
    missing = target - torch.where(scores < score, ordered, 0).sum(-1, keepdim=True)
    each = ordered.gather(-1, last).clamp_(min=1)
    num_ties = torch.div(missing + each - 1, each, rounding_mode="floor").clamp_(min=1)
    return Boundary(score, num_ties)
