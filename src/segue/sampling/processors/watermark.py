from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.sampling.row import SamplingRow
from segue.sampling.transfer import move, to_device

__all__ = ["Watermark"]

_HASH_KEY = 15485863
"""The millionth prime, as in the authors' implementation."""


@dataclass(frozen=True, slots=True)
class GreenLists:
    rows: tuple[int, ...]
    is_green: Tensor
    """[num_asked, vocab] bool, on the host."""


class Watermark:
    """Kirchenbauer et al., "A Watermark for Large Language Models" (2023): the last token's id splits the vocabulary.

    The split is drawn on the host's generator, so it is the same on every device and a detector needs none.
    """

    greedy_safe = False

    def __init__(self, vocab_size: int, *, gamma: float, delta: float) -> None:
        """The first ``floor(gamma * vocab_size)`` ids of the permutation are green and gain ``delta``."""
        self._vocab_size = vocab_size
        self._num_green = int(vocab_size * gamma)
        self._delta = delta

    def columns(self, rows: Sequence[SamplingRow]) -> GreenLists | None:
        asked = tuple(i for i, row in enumerate(rows) if row.params.watermark)
        if not asked:
            return None
        is_green = torch.zeros(len(asked), self._vocab_size, dtype=torch.bool)
        generator = torch.Generator()
        for green, i in zip(is_green, asked, strict=True):
            generator.manual_seed(_HASH_KEY * rows[i].history[-1])
            green[torch.randperm(self._vocab_size, generator=generator)[: self._num_green]] = True
        return GreenLists(asked, is_green)

    def apply(self, logits: Tensor, columns: GreenLists) -> Tensor:
        green = move(columns.is_green, logits.device).to(logits.dtype)
        rows = to_device(columns.rows, torch.int64, logits.device)
        return logits.index_add_(0, rows, green, alpha=self._delta)
