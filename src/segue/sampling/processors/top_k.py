from collections.abc import Sequence

import torch
from torch import Tensor

from segue.kernels.cpu import sampling as native
from segue.sampling.processors.base import Column
from segue.sampling.row import SamplingRow

__all__ = ["TopK"]


class TopK:
    """Keeps logits that are at least the k-th largest: all that tie with it stay."""

    greedy_safe = True

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def columns(self, rows: Sequence[SamplingRow]) -> Column | None:
        """A value of ``vocab_size`` or more keeps everything."""
        limits = (row.params.top_k for row in rows)
        return Column.of([k if 0 < k < self._vocab_size else 0 for k in limits], off=0)

    def apply(self, logits: Tensor, columns: Column) -> Tensor:
        if native.can_run(logits):
            native.keep_top_k(logits, columns.rows, [int(limit) for limit in columns.values])
            return logits
        part = columns.take(logits)
        largest = part.topk(int(max(columns.values))).values
        kth = largest.gather(-1, columns.tensor(torch.int64, logits.device) - 1)
        return columns.put(logits, part.masked_fill_(part < kth, -torch.inf))
