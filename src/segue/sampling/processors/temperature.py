from collections.abc import Sequence

from torch import Tensor

from segue.sampling.processors.base import Column
from segue.sampling.row import SamplingRow

__all__ = ["Temperature"]

_SMALLEST = 1e-30
"""Below this the quotient of an ordinary logit leaves float32; there it is the largest logit's id anyway."""


class Temperature:
    """``logits / temperature``."""

    greedy_safe = True

    def columns(self, rows: Sequence[SamplingRow]) -> Column | None:
        return Column.of([max(row.params.temperature, _SMALLEST) for row in rows], off=1.0)

    def apply(self, logits: Tensor, columns: Column) -> Tensor:
        part = columns.take(logits)
        return columns.put(logits, part.div_(columns.tensor(logits.dtype, logits.device)))
