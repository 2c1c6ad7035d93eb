from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.kernels.cpu import sampling as native
from segue.sampling.masses import masses, reach
from segue.sampling.processors.base import Column
from segue.sampling.processors.prefix import ascending, boundary
from segue.sampling.row import SamplingRow

__all__ = ["TopP"]


@dataclass(frozen=True, slots=True)
class Nuclei:
    top_p: Column
    max_top_k: int | None
    """If every row here went through top-k: the largest k. Then only so many ids, and ties with the last, are left."""


class TopP:
    """Holtzman et al. (2019), as TGI: in ascending order, ids are dropped while the cumulative probability is ≤ 1 - p.

    The same from the other end: an id stays while the ids above it hold less than p; so one always stays. Among equal
    logits the lower id counts as the smaller, as in a stable ascending sort.
    """

    greedy_safe = True

    def columns(self, rows: Sequence[SamplingRow]) -> Nuclei | None:
        top_p = Column.of([min(row.params.top_p, 1.0) for row in rows], off=1.0)
        if top_p is None:
            return None
        limits = [rows[i].params.top_k for i in top_p.rows]
        return Nuclei(top_p, max(limits) if min(limits) > 0 else None)

    def apply(self, logits: Tensor, columns: Nuclei) -> Tensor:
        if native.can_run(logits):
            native.keep_top_p(logits, columns.top_p.rows, columns.top_p.values)
            return logits
        part = columns.top_p.take(logits)
        vocab_size, peak = part.shape[-1], part.amax(-1, keepdim=True)
        limit = columns.max_top_k
        if limit is not None and limit < vocab_size:
            best = part.topk(limit).values
            weights = masses(best, peak, vocab_size)
            total = masses(part, peak, vocab_size).sum(-1, keepdim=True)
        else:
            best = ascending(-part).neg_()
            weights = masses(best, peak, vocab_size)
            total = weights.sum(-1, keepdim=True)
        target = reach(total, columns.top_p.tensor(torch.float64, logits.device))
        edge = boundary(-best, weights, target)
        is_edge = part == -edge.score
        rank = is_edge.cumsum(-1)
        is_dropped = (part < -edge.score) | (is_edge & (rank <= rank[:, -1:] - edge.num_ties))
        return columns.top_p.put(logits, part.masked_fill_(is_dropped, -torch.inf))
