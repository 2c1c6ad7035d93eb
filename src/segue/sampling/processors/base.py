"""The shape that all logits processors have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from segue.sampling.row import SamplingRow
from segue.sampling.transfer import to_device

__all__ = ["Column", "Processor"]

ColumnsT = TypeVar("ColumnsT")


class Processor(Protocol[ColumnsT]):
    """One step between the model's logits and the choice. What rows ask for becomes columns, once for the batch."""

    greedy_safe: bool
    """A greedy row never needs it, because asking for it makes a row sample; skipped while every row is greedy."""

    def columns(self, rows: Sequence[SamplingRow]) -> ColumnsT | None:
        """On the host. None: nobody asked, the step is skipped."""

    def apply(self, logits: Tensor, columns: ColumnsT) -> Tensor:
        """``logits``: [num_rows, vocab] float32, the sampler's own: may be changed in place. Never waits for a device.

        Rows that did not ask come back with the same bits; a row that holds NaN keeps one or becomes arbitrary, without
        an error and without touching the others.
        """


@dataclass(frozen=True, slots=True)
class Column:
    """One number for each row that asked: ``values[i]`` is row ``rows[i]``'s."""

    rows: tuple[int, ...]
    values: tuple[float, ...]
    num_rows: int

    @classmethod
    def of(cls, values: Sequence[float], *, off: float) -> "Column | None":
        """``values``: one a row of the batch; a row with ``off`` did not ask."""
        asked = tuple(i for i, value in enumerate(values) if value != off)
        return cls(asked, tuple(values[i] for i in asked), len(values)) if asked else None

    def tensor(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """[num_asked, 1]"""
        return to_device(self.values, dtype, device).unsqueeze(-1)

    def take(self, logits: Tensor) -> Tensor:
        """[num_asked, vocab]: ``logits`` itself if every row asked."""
        if len(self.rows) == self.num_rows:
            return logits
        return logits.index_select(0, to_device(self.rows, torch.int64, logits.device))

    def put(self, logits: Tensor, part: Tensor) -> Tensor:
        """``logits`` with the rows that ``take`` gave replaced by ``part``."""
        if len(self.rows) == self.num_rows:
            return part
        return logits.index_copy_(0, to_device(self.rows, torch.int64, logits.device), part)
