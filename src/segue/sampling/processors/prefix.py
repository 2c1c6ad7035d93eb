"""The shortest prefix of a sorted vocabulary that holds enough probability: the core of top-p and typical-p."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Boundary", "ascending", "ascending_ids", "boundary"]


@dataclass(frozen=True, slots=True)
class Boundary:
    score: Tensor
    """[n, 1]: the score at which the prefix reaches the target."""
    num_ties: Tensor
    """[n, 1] int64: how many of the ids with that score it needs, at least one."""


def ascending(scores: Tensor) -> Tensor:
    """[n, vocab], each row sorted; NaN comes last.

    On a CPU by numpy, which sorts with vector instructions: 16 x 50,257 in 2 ms where ``torch.sort``, which carries the
    ids along, took 50 ms on one core with AVX-512 (benchmarks/kernels/bench_sampler.py).
    """
    if scores.device.type == "cpu":
        return torch.from_numpy(np.sort(scores.numpy(), axis=-1))
    return scores.sort(-1).values


def ascending_ids(scores: Tensor) -> Tensor:
    """[n, vocab] int64: the ids in ascending order of score, equal scores in any order."""
    if scores.device.type == "cpu":
        return torch.from_numpy(np.argsort(scores.numpy(), axis=-1))
    return scores.argsort(-1)


def boundary(scores: Tensor, weights: Tensor, target: Tensor) -> Boundary:
    """Walks each row until its weights add up to the target, or to the row's end.

    ``scores``: [n, m] ascending; ``weights``: [n, m] int64, not negative, in the same order; ``target``: [n, 1] int64,
    at least 1. ``num_ties`` counts on with the last weight where the ties go on behind the row's end, and means
    something only if equal scores have equal weights.
    """
    num_before = (weights.cumsum(-1) < target).sum(-1, keepdim=True)
    last = num_before.clamp_(max=scores.shape[-1] - 1)
    score = scores.gather(-1, last)
    missing = target - torch.where(scores < score, weights, 0).sum(-1, keepdim=True)
    each = weights.gather(-1, last).clamp_(min=1)
    num_ties = torch.div(missing + each - 1, each, rounding_mode="floor").clamp_(min=1)
    return Boundary(score, num_ties)
