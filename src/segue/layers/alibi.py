"""ALiBi (Press et al. 2022): attention falls off linearly with distance, by a slope of its own for every head."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from segue.layers.attention import Attention

__all__ = ["alibi_slopes", "give_slopes"]


def alibi_slopes(num_heads: int) -> Tensor:
    """[num_heads] float32: the geometric series from 2^(-8/n) for n heads, n a power of two.

    For other numbers: the series of the power of two below, then every second value of the series of the one above.
    """
    below = 1 << (num_heads.bit_length() - 1)
    exponents = [-8 * (i + 1) / below for i in range(below)]
    exponents += [-4 * (2 * i + 1) / below for i in range(num_heads - below)]
    return 2.0 ** torch.tensor(exponents, dtype=torch.float64).float()


def give_slopes(model: nn.Module, device: torch.device) -> None:
    """Switch ALiBi on in all of a model's layers, with one tensor for all of them: so they share a step's bias."""
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    slopes = alibi_slopes(layers[0].spec.num_heads).to(device)
    for layer in layers:
        layer.spec = replace(layer.spec, alibi_slopes=slopes)
