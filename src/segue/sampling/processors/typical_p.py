from collections.abc import Sequence

import torch
from torch import Tensor

from segue.kernels.cpu import sampling as native
from segue.sampling.masses import masses, reach
from segue.sampling.processors.base import Column
from segue.sampling.processors.prefix import ascending_ids, boundary
from segue.sampling.row import SamplingRow

__all__ = ["TypicalP"]


class TypicalP:
    """Meister et al., "Locally Typical Sampling" (2022): keeps the ids whose surprise is nearest to the entropy.

    They are ranked by ``abs(-log p - H)``; the smallest set with a mass of at least typical_p stays, and all that tie
    with its last. With d = peak - logit, log p = -d - log Z and H = mean(d) + log Z, so the rank is by
    ``abs(d - mean(d))``, and the mean is a sum of integers over a sum of integers.
    """

    greedy_safe = True

    def columns(self, rows: Sequence[SamplingRow]) -> Column | None:
        return Column.of([min(row.params.typical_p, 1.0) for row in rows], off=1.0)

    def apply(self, logits: Tensor, columns: Column) -> Tensor:
        if native.can_run(logits):
            native.keep_typical(logits, columns.rows, columns.values)
            return logits
        part = columns.take(logits)
        peak = part.amax(-1, keepdim=True)
        weights = masses(part, peak, part.shape[-1])
        total = weights.sum(-1, keepdim=True)
        below = peak - part
        # A weight of 0 times a finite distance is 0; times infinity it would be NaN. weight * d is at most 2**b / e.
        moments = (weights.to(below.dtype) * below.clamp(max=1e30)).to(torch.int64)
        mean = moments.sum(-1, keepdim=True).to(torch.float64) / total
        score = (below - mean.to(below.dtype)).abs_()
        target = reach(total, columns.tensor(torch.float64, logits.device))
        ids = ascending_ids(score)
        edge = boundary(score.gather(-1, ids), weights.gather(-1, ids), target)
        return columns.put(logits, part.masked_fill_(score > edge.score, -torch.inf))
