"""GPTQ (Frantar et al. 2022): codes chosen input by input, each error passed on to the inputs that are still to come.

What is minimized is the error of the products, |X·W - X·Q|², for the inputs X of a calibration text. All that it takes
of X is H = XᵀX. Symmetric codes; scales are searched for as in ``kernels.rounding``, in what earlier errors have made
of a group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from segue.kernels.rounding import RANGES, best_scale
from segue.quantization.gptq import packed_tensors

__all__ = ["Calibration", "GPTQOptions", "input_products"]

ROWS = 4096
"""Inputs multiplied at a time."""
BLOCK = 128
"""Input features worked on before their errors reach those after the block."""
MOST_DAMPING = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQOptions:
    bits: int = 4
    """4 or 8."""
    group: int = 128
    """Inputs a scale; -1: all."""
    damping: float = 0.01
    """Added to H's diagonal, as a share of its mean: ``percdamp``."""
    act_order: bool = False
    """Inputs in the order of falling H[i, i]; groups are made in that order, so that each input names its own."""

    def config(self) -> dict[str, object]:
        """``quantization_config``, as TGI and AutoGPTQ spell it."""
        return {
            "quant_method": "gptq",
            "checkpoint_format": "gptq",
            "bits": self.bits,
            "group_size": self.group,
            "damp_percent": self.damping,
            "desc_act": self.act_order,
            "static_groups": False,
            "sym": True,
            "true_sequential": True,
        }


def input_products(x: Tensor) -> Tensor:
    """x [num_tokens, k] → xᵀ·x [k, k], float32."""
    products = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float32, device=x.device)
    for rows in x.split(ROWS):
        rows = rows.float()
        products.addmm_(rows.t(), rows)
    return products


class Calibration:
    """What the inputs of one layer say of how to round the weights that they are multiplied with."""

    def __init__(self, products: Tensor, options: GPTQOptions) -> None:
        """``products``: of ``input_products``; its memory is used up."""
        self._options = options
        k = products.shape[0]
        diagonal = products.diagonal()
        diagonal[diagonal == 0] = 1.0  # an input that the text leaves at 0 is rounded to nearest
        if options.act_order:
            self._order = torch.argsort(diagonal, descending=True, stable=True)
            products = products[self._order][:, self._order]
        else:
            self._order = torch.arange(k, device=products.device)
        self._factor = _factor_of_inverse(products.double(), options.damping)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """weight [n, k] of floats → the tensors of a GPTQ checkpoint, by leaf."""
        bits, group = self._options.bits, self._options.group
        n, k = weight.shape
        group = k if group <= 0 else group
        left = weight.float()[:, self._order]
        codes = torch.empty(n, k, dtype=torch.uint8, device=weight.device)
        scales = torch.empty(n, -(-k // group), dtype=torch.float32, device=weight.device)
        for start in range(0, k, min(group, BLOCK)):
            stop = min(k, start + min(group, BLOCK), (start // group + 1) * group)
            if start % group == 0:
                scales[:, start // group] = _scale(left[:, start : start + group], bits)
            of_block, errors = self._round_block(left[:, start:stop], scales[:, start // group], start)
            codes[:, start:stop] = of_block
            left[:, stop:].addmm_(errors, self._factor[start:stop, stop:], alpha=-1)
        places = torch.arange(k, device=weight.device) // group
        in_order, groups = torch.empty_like(codes), torch.empty_like(places)
        in_order[:, self._order] = codes
        groups[self._order] = places
        return packed_tensors(in_order, scales, groups, bits)

    def _round_block(self, left: Tensor, scale: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Codes uint8 [n, block], and errors [n, block], each over its diagonal entry of the factor."""
        middle = 2 ** (self._options.bits - 1)
        codes, errors = torch.empty_like(left, dtype=torch.uint8), torch.empty_like(left)
        left = left.clone()
        for j in range(left.shape[1]):
            row = self._factor[start + j]
            code = (left[:, j] / scale).round_().clamp_(-middle, middle - 1)
            codes[:, j] = (code + middle).to(torch.uint8)
            errors[:, j] = (left[:, j] - code * scale) / row[start + j]
            left[:, j + 1 :].addr_(errors[:, j], row[start + j + 1 : start + left.shape[1]], alpha=-1)
        return codes, errors


def _scale(weight: Tensor, bits: int) -> Tensor:
    """[n, group] → [n], as float16 has them."""
    if bits == 4:
        return best_scale(weight.unsqueeze(1), RANGES, torch.float16)[:, 0]
    scale = (weight.abs().amax(1) / 127).half().float()
    return torch.where(scale == 0, 1.0, scale)


def _factor_of_inverse(products: Tensor, damping: float) -> Tensor:
    """The upper U of (H + damping)⁻¹ = Uᵀ·U, float32. More damping is tried where H is not positive definite."""
    mean = products.diagonal().mean()
    while True:
        damped = products.clone()
        damped.diagonal().add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper.float()
        if damping >= MOST_DAMPING:
            raise ValueError("the calibration text's products are not finite")
        damping = min(MOST_DAMPING, max(10 * damping, 1e-3))
