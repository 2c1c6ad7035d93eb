from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.sampling.row import SamplingRow
from segue.sampling.transfer import to_device

__all__ = ["FrequencyPenalty"]


@dataclass(frozen=True, slots=True)
class Frequencies:
    places: list[int]
    """``row * vocab_size + id``, each once."""
    amounts: list[float]
    """What each loses."""


class FrequencyPenalty:
    """TGI's: a logit loses ``penalty * count(id) / len(history)``, over prompt and output. OpenAI's counts are raw.

    Ids outside of the vocabulary have no logit, but count in the length.
    """

    greedy_safe = False

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def columns(self, rows: Sequence[SamplingRow]) -> Frequencies | None:
        places: list[int] = []
        amounts: list[float] = []
        for i, row in enumerate(rows):
            penalty = row.params.frequency_penalty
            if penalty != 0.0:
                start, length = i * self._vocab_size, len(row.history)
                for token_id, count in Counter(row.history).items():
                    if 0 <= token_id < self._vocab_size:
                        places.append(start + token_id)
                        amounts.append(penalty * count / length)
        return Frequencies(places, amounts) if places else None

    def apply(self, logits: Tensor, columns: Frequencies) -> Tensor:
        places = to_device(columns.places, torch.int64, logits.device)
        amounts = to_device(columns.amounts, logits.dtype, logits.device)
        flat = logits.view(-1)
        flat.index_copy_(0, places, flat.index_select(0, places) - amounts)
        return logits
