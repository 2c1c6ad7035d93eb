"""Weights in few bits for the native products: packed from codes that exist, or rounded from floats on the way."""

from typing import TYPE_CHECKING

from torch import Tensor

from segue.kernels.quantized import QuantizedWeight
from segue.kernels.rounding import Rounding

if TYPE_CHECKING:
    from segue.kernels.cpu.linear import Floats, PackedLinear

__all__ = ["can_pack", "pack", "pack_rounded"]


def can_pack(weight: QuantizedWeight) -> bool:
    """Groups are of a multiple of 8 inputs, and codes of 8 bits have no zero points."""
    return weight.group % 8 == 0 and not (weight.bits == 8 and weight.zeros is not None)


def pack(weight: QuantizedWeight, bias: Tensor | None, *, gated: bool) -> "PackedLinear":
    """``gated``: as in ``linear.pack_float``."""
    from segue.kernels.cpu.linear import pack_codes

    n = weight.shape[0]
    return pack_codes(
        weight.codes,
        weight.scales.view(n, -1),
        weight.kind,
        zeros=None if weight.zeros is None else weight.zeros.view(n, -1),
        group=weight.group,
        table=None if weight.table is None else weight.table.tolist(),
        permutation=weight.input_permutation,
        bias=bias,
        gated=gated,
    )


def pack_rounded(weight: "Floats", to: Rounding, bias: Tensor | None, *, gated: bool) -> "PackedLinear":
    """weight [n, k] on the CPU."""
    from segue.kernels.cpu.linear import quantize

    return quantize(weight, to.kind, group=to.group, table=to.table, bias=bias, gated=gated)
