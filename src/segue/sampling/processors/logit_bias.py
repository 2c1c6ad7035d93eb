from collections.abc import Sequence

from torch import Tensor

from segue.sampling.processors.additions import Additions
from segue.sampling.row import SamplingRow

__all__ = ["LogitBias"]


class LogitBias:
    """OpenAI's: ``logit + bias`` for the ids that have one. Depends on no history."""

    greedy_safe = False

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def columns(self, rows: Sequence[SamplingRow]) -> Additions | None:
        biased = [
            (i * self._vocab_size + token_id, bias)
            for i, row in enumerate(rows)
            for token_id, bias in row.params.logit_bias
            if token_id < self._vocab_size
        ]
        return Additions([place for place, _ in biased], [bias for _, bias in biased]) if biased else None

    def apply(self, logits: Tensor, columns: Additions) -> Tensor:
        return columns.add(logits)
