"""Processed logits → ids."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.sampling.masses import masses
from segue.sampling.random_numbers import uniform
from segue.sampling.row import SamplingRow
from segue.sampling.transfer import to_device

__all__ = ["choose", "draw"]


def choose(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """[num_rows] int64: the largest logit's id for a greedy row, a drawn one for a row that samples.

    ``logits``: [num_rows, vocab] float32, processed. A row without a finite logit gets an arbitrary valid id.
    """
    sampling = [i for i, row in enumerate(rows) if row.params.is_sampling]
    if not sampling:
        return logits.argmax(-1)
    uniforms = to_device([uniform(rows[i].seed, rows[i].position) for i in sampling], torch.float64, logits.device)
    if len(sampling) == len(rows):
        return draw(logits, uniforms)
    index = to_device(sampling, torch.int64, logits.device)
    return logits.argmax(-1).index_copy_(0, index, draw(logits.index_select(0, index), uniforms))


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """[n] int64: inverse of the cumulative distribution.

    ``logits``: [n, vocab] float32; ``uniforms``: [n] float64 in [0, 1). Takes the first id whose cumulative mass
    exceeds ``uniform * total``. A mass of 0 never raises the cumulative sum, so a masked id is never first.
    """
    vocab_size = logits.shape[-1]
    cumulative = masses(logits, logits.amax(-1, keepdim=True), vocab_size).cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total even where float64 rounds that up: times at most 1 - 2**-53, it is the next float64 down at best.
    target = (uniforms.unsqueeze(-1) * total).to(torch.int64)
    ids = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return ids.clamp_(max=vocab_size - 1)
