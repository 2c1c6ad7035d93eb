from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.sampling.row import SamplingRow
from segue.sampling.transfer import to_device

__all__ = ["RepetitionPenalty"]


@dataclass(frozen=True, slots=True)
class SeenIds:
    places: list[int]
    """``row * vocab_size + id``, each once."""
    penalties: list[float]


class RepetitionPenalty:
    """Keskar et al., "CTRL" (2019): a seen id's logit is divided by the penalty (multiplied if negative), once.

    Prompt and output ids count. Ids outside of the vocabulary (placeholders of other modalities) have no logit.
    """

    greedy_safe = False

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def columns(self, rows: Sequence[SamplingRow]) -> SeenIds | None:
        places: list[int] = []
        penalties: list[float] = []
        for i, row in enumerate(rows):
            penalty = row.params.repetition_penalty
            if penalty != 1.0:
                start = i * self._vocab_size
                seen = [start + token_id for token_id in set(row.history) if 0 <= token_id < self._vocab_size]
                places += seen
                penalties += [penalty] * len(seen)
        return SeenIds(places, penalties) if places else None

    def apply(self, logits: Tensor, columns: SeenIds) -> Tensor:
        places = to_device(columns.places, torch.int64, logits.device)
        penalties = to_device(columns.penalties, logits.dtype, logits.device)
        flat = logits.view(-1)
        seen = flat.index_select(0, places)
        flat.index_copy_(0, places, torch.where(seen < 0, seen * penalties, seen / penalties))
        return logits
