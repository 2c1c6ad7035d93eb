"""Rows and logits for the sampling tests."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segue.core.request import SamplingParams
from segue.sampling.row import SamplingRow


def row(
    history: Sequence[int] = (1, 2, 3),
    seed: int = 0,
    position: int | None = None,
    num_prompt_tokens: int = 1,
    **params: Any,
) -> SamplingRow:
    at = len(history) if position is None else position
    return SamplingRow(SamplingParams(**params), history, seed, at, num_prompt_tokens)


def random_logits(num_rows: int, vocab_size: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * scale
