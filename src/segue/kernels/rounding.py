"""Rounding a float weight [n, k] to few bits, a block of outputs at a time so that the work stays in the CPU's caches.

int8 has one scale an output. int4 has one for each group of inputs: of several ranges the one with the least squared
error, for each range the least-squares scale of its codes. Tables (nf4 and fp4 as bitsandbytes has them, Dettmers et
al. 2023, "QLoRA", appendix E) have one scale a group, which is the largest magnitude.

At the same bytes, symmetric groups of 64 beat groups of 128 with a zero point: relative errors of 0.090 and 0.096 on
normal weights, 0.122 and 0.127 on heavy-tailed ones (Student's t with 5 degrees of freedom).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.kernels.quantized import Kind, QuantizedWeight, pack_nibbles

__all__ = ["FP4", "NF4", "QUICK_RANGES", "RANGES", "Rounding", "best_scale", "rounded"]

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""16 quantiles of the normal distribution, scaled to [-1, 1], with an exact 0."""
_FP4_HALF = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)
FP4 = (*_FP4_HALF, *(-value for value in _FP4_HALF))
"""Sign, two bits of exponent, one of mantissa, as bitsandbytes numbers them."""

BLOCK_WEIGHTS = 2**18
"""Weights worked on at a time: 1 MiB in float32."""


RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of a group's range to try; less than 1 clips its extremes."""
QUICK_RANGES = (1.0, 0.9, 0.8)
"""Half the time for 0.6% more error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """What to round a weight to."""

    kind: Kind
    group: int = 0
    """Inputs a scale, a divisor of all of them; 0: all."""
    table: tuple[float, ...] | None = None
    """The 16 values that codes of ``i4w`` stand for, from -1 to 1; None: -8 to 7."""


def rounded(
    weight: Tensor,
    to: Rounding,
    *,
    ranges: tuple[float, ...] = RANGES,
    scale_dtype: torch.dtype | None = None,
) -> QuantizedWeight:
    """weight [n, k] of floats. ``scale_dtype``: what scales have to fit in; default: float16 for 4 bits, else float32.

    Codes are chosen for the scales so rounded.
    """
    default = torch.float16 if to.kind in ("i4", "i4w") and to.table is None else torch.float32
    scale_dtype = scale_dtype or default
    if to.kind in ("i8", "i8w"):
        assert to.group == 0, to
        return _to_int8(weight, to.kind, scale_dtype)
    if to.table is not None:
        return _to_table(weight, to.kind, to.table, to.group)
    return _to_int4(weight, to.kind, to.group, ranges, scale_dtype)


def _to_int8(weight: Tensor, kind: Kind, scale_dtype: torch.dtype) -> QuantizedWeight:
    """Symmetric, one scale an output: the largest magnitude becomes 127."""
    n, k = weight.shape
    q = torch.empty(n, k, dtype=torch.int8, device=weight.device)
    scales = torch.empty(n, dtype=torch.float32, device=weight.device)

    def round_rows(rows: slice) -> None:
        block = weight[rows].float()
        scale = _not_zero((block.abs().amax(1) / 127).to(scale_dtype).float())
        q[rows] = (block / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        scales[rows] = scale

    _each_block(n, k, round_rows)
    return QuantizedWeight(kind=kind, q=q, scales=scales, in_features=k)


def _to_int4(
    weight: Tensor, kind: Kind, group: int, ranges: tuple[float, ...], scale_dtype: torch.dtype
) -> QuantizedWeight:
    """Symmetric: codes -8…7, stored as 0…15, times the group's scale."""
    n, k = weight.shape
    assert k % group == 0, (k, group)
    q = torch.empty(n, k // 2, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(n, k // group, dtype=torch.float32, device=weight.device)

    def round_rows(rows: slice) -> None:
        block = weight[rows].float().contiguous().view(-1, k // group, group)
        scale = best_scale(block, ranges, scale_dtype)
        q[rows] = pack_nibbles(_signed_codes(block, scale).add_(8).to(torch.uint8).view(-1, k))
        scales[rows] = scale

    _each_block(n, k, round_rows)
    return QuantizedWeight(kind=kind, q=q, scales=scales, group=group, in_features=k)


def _to_table(weight: Tensor, kind: Kind, table: tuple[float, ...], group: int) -> QuantizedWeight:
    """The nearest of 16 values times the group's largest magnitude."""
    n, k = weight.shape
    assert k % group == 0, (k, group)
    values = torch.tensor(table, device=weight.device)
    ordered, code_of = values.sort()
    borders = (ordered[1:] + ordered[:-1]) / 2
    q = torch.empty(n, k // 2, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(n, k // group, dtype=torch.float32, device=weight.device)

    def round_rows(rows: slice) -> None:
        block = weight[rows].float().contiguous().view(-1, k // group, group)
        scale = _not_zero(block.abs().amax(2))
        nearest = torch.bucketize((block / scale[..., None]).view(-1, k), borders)
        q[rows] = pack_nibbles(code_of[nearest].to(torch.uint8))
        scales[rows] = scale

    _each_block(n, k, round_rows)
    return QuantizedWeight(kind=kind, q=q, scales=scales, group=group, table=values, in_features=k)


def _each_block(n: int, k: int, round_rows: Callable[[slice], None]) -> None:
    rows = max(1, BLOCK_WEIGHTS // k)
    for start in range(0, n, rows):
        round_rows(slice(start, min(n, start + rows)))


def _not_zero(scale: Tensor) -> Tensor:
    """A group of zeros has any scale."""
    return torch.where(scale == 0, 1.0, scale)


def best_scale(block: Tensor, ranges: tuple[float, ...], scale_dtype: torch.dtype) -> Tensor:
    """block [n, groups, group] → scales [n, groups].

    The first guess makes the value of largest magnitude, whatever its sign, -8: of both ends of the codes the longer.
    """
    extreme = block.gather(2, block.abs().argmax(2, keepdim=True)).squeeze(2)
    best, least = torch.empty(0), torch.empty(0)
    for share in ranges:
        codes = _signed_codes(block, _not_zero(extreme * (share / -8)))
        fitted = _not_zero(((block * codes).sum(2) / _not_zero(codes.square().sum(2))).to(scale_dtype).float())
        error = _signed_codes(block, fitted).mul_(fitted[..., None]).sub_(block).square_().sum(2)
        if share == ranges[0]:
            best, least = fitted, error
        else:
            best = torch.where(error < least, fitted, best)
            least = torch.minimum(error, least)
    return best


def _signed_codes(block: Tensor, scale: Tensor) -> Tensor:
    return (block / scale[..., None]).round_().clamp_(-8, 7)
