"""Probabilities as whole numbers.

Floating-point sums depend on the order of addition, so on the device, the number of threads and the shape of the batch:
a cumulative sum that ends a hair to the other side of a threshold would choose another token. Sums of integers do not.
Every decision that compares a sum of probabilities with something is therefore made on integers.
"""

import torch
from torch import Tensor

__all__ = ["masses", "reach"]

_SUM_BITS = 62
_LOWEST = -64.0
"""exp(-64) * 2**62 is below 1. On a CPU, exponentials that end in float32's denormals took 40 times as long."""


def masses(logits: Tensor, peak: Tensor, vocab_size: int) -> Tensor:
    """[n, m] int64: ``exp(logit - peak)`` in units of 2**-b, rounded down; ``-inf`` gives 0, the peak gives 2**b.

    ``logits``: [n, m] float32, a whole row or a part; ``peak``: [n, 1], the row's largest. b leaves room for the sum of
    ``vocab_size`` peaks: it is 46 for 50,257 tokens, so what rounding down takes is under vocab * 2**-46 of the total.
    A row whose peak is not finite gives arbitrary numbers, and hurts no other row.
    """
    bits = _SUM_BITS - vocab_size.bit_length()
    return (logits - peak).clamp_(min=_LOWEST).exp_().mul_(2.0**bits).to(torch.int64)


def reach(total: Tensor, share: Tensor) -> Tensor:
    """[n, 1] int64: the smallest mass, at least 1, that is ``share`` (float64, below 1) of ``total`` or more."""
    return (total.to(torch.float64) * share).ceil_().to(torch.int64).clamp_(min=1)
