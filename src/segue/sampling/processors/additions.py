"""Numbers to add to single logits: what several processors come down to."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segue.sampling.transfer import to_device

__all__ = ["Additions"]


@dataclass(frozen=True, slots=True)
class Additions:
    places: list[int]
    """``row * vocab_size + id``, each once."""
    amounts: list[float]
    """What each gets."""

    def add(self, logits: Tensor) -> Tensor:
        """``logits``: [num_rows, vocab], contiguous; changed in place."""
        places = to_device(self.places, torch.int64, logits.device)
        amounts = to_device(self.amounts, logits.dtype, logits.device)
        flat = logits.view(-1)
        flat.index_copy_(0, places, flat.index_select(0, places) + amounts)
        return logits
