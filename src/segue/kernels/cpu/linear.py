"""Packed weights on the CPU and their products: the checked side of ``_native``'s, which takes addresses."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from segue.kernels.cpu import _native
from segue.kernels.cpu._native import PackedLinear

__all__ = [
    "FP4",
    "NF4",
    "FloatKind",
    "Floats",
    "IntKind",
    "PackedLinear",
    "linear",
    "pack_codes",
    "pack_float",
    "quantize",
]

FloatKind = Literal["f32", "f16", "bf16"]

IntKind = Literal["i8", "i8w", "i4", "i4w"]
"""Bits of a weight's codes; with ``w`` activations stay floats, without they are rounded to int8 row by row."""

# fmt: off
NF4: tuple[float, ...] = (
    -1.0, -0.6961928, -0.5250731, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)
# fmt: on
"""Quantiles of a normal distribution between -1 and 1 (Dettmers et al., QLoRA, 2023, appendix E)."""

_FP4_SIZES = (0.0, 0.0625 / 12, 8 / 12, 1.0, 4 / 12, 6 / 12, 2 / 12, 3 / 12)

FP4: tuple[float, ...] = (*_FP4_SIZES, *(-size for size in _FP4_SIZES))
"""4-bit floats, sign first, scaled to 1, in the order of bitsandbytes' codes."""

_KINDS: dict[torch.dtype, FloatKind] = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


Floats = Tensor | Sequence[Tensor]
"""A weight [n, k] float32, float16 or bfloat16, or the parts that its rows are, one after the other."""


def pack_float(
    weight: Floats, bias: Tensor | None = None, *, kind: FloatKind | None = None, gated: bool = False
) -> PackedLinear:
    """weight [n, k], stored as ``kind`` (by default that of the weight, or of its first part), and bias [n].

    ``gated``: the first n/2 outputs are gates and the others their ups; products are act(gate) * up, [rows, n/2].
    """
    parts = _checked_parts(weight)
    n, k = sum(part.shape[0] for part in parts), parts[0].shape[1]
    biases = _floats(bias, (n,))
    return PackedLinear.pack_float(
        kind or _KINDS[parts[0].dtype], [_part(part) for part in parts], n, k, _address(biases), gated
    )


def quantize(
    weight: Floats,
    kind: IntKind,
    *,
    group: int = 0,
    has_zeros: bool = False,
    table: Sequence[float] | None = None,
    bias: Tensor | None = None,
    gated: bool = False,
) -> PackedLinear:
    """weight [n, k], rounded to integers with one scale for each ``group`` inputs of an output (0: all).

    ``has_zeros`` (4 bits): with a zero point a group, for weights that are not centred. ``table`` (i4w): the 16 values
    that codes stand for, from -1 to 1. Scales of 4-bit weights are rounded to 16 bits.
    """
    parts = _checked_parts(weight)
    n, k = sum(part.shape[0] for part in parts), parts[0].shape[1]
    biases = _floats(bias, (n,))
    values = _floats(None if table is None else torch.tensor(table), (16,))
    return PackedLinear.quantize(
        kind, [_part(part) for part in parts], n, k, group, has_zeros, _address(values), _address(biases), gated
    )


def pack_codes(
    codes: Tensor,
    scales: Tensor,
    kind: IntKind,
    *,
    zeros: Tensor | None = None,
    group: int = 0,
    table: Sequence[float] | None = None,
    permutation: Tensor | None = None,
    bias: Tensor | None = None,
    gated: bool = False,
) -> PackedLinear:
    """Integers of a quantized checkpoint: codes [n, k], int8 (8 bits) or uint8 below 16; scales, zeros [n, groups].

    A weight is (code - zero) * scale; without zeros, zero is 0 for 8 bits and 8 for 4. ``permutation`` [k]: column i
    of codes is multiplied with input permutation[i], as GPTQ's act-order needs.
    """
    n, k = codes.shape
    groups = -(-k // group) if group else 1
    want = torch.int8 if kind in ("i8", "i8w") else torch.uint8
    if codes.dtype != want or codes.device.type != "cpu":
        raise ValueError(f"codes of {kind} are {want}, not {codes.dtype} on {codes.device}")
    codes = codes.contiguous()
    factors, biases = _floats(scales, (n, groups)), _floats(bias, (n,))
    values = _floats(None if table is None else torch.tensor(table), (16,))
    points = None if zeros is None else zeros.to(torch.uint8).contiguous()
    order = None if permutation is None else permutation.to(torch.int32).contiguous()
    if points is not None and points.shape != (n, groups):
        raise ValueError(f"zeros of shape {tuple(points.shape)}, not {(n, groups)}")
    if order is not None and not torch.equal(order.sort().values, torch.arange(k, dtype=torch.int32)):
        raise ValueError(f"not a permutation of {k} inputs")
    return PackedLinear.pack_codes(
        kind,
        codes.data_ptr(),
        _address(factors),
        _address(points),
        n,
        k,
        group,
        _address(values),
        _address(order),
        _address(biases),
        gated,
    )


def linear(
    x: Tensor,
    weight: PackedLinear,
    out: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """x [rows, k] float32 → act(scale * x · weightᵀ + bias) + residual, [rows, num_outputs] float32.

    ``residual`` may be ``out``. Rows may be strided; their elements follow each other.
    """
    rows = x.shape[0]
    if out is None:
        out = x.new_empty(rows, weight.num_outputs)
    _check_rows(x, (rows, weight.k))
    _check_rows(out, (rows, weight.num_outputs))
    if residual is not None:
        _check_rows(residual, (rows, weight.num_outputs))
    _native.linear(
        weight,
        x.data_ptr(),
        x.stride(0),
        rows,
        out.data_ptr(),
        out.stride(0),
        activation,
        _address(residual),
        0 if residual is None else residual.stride(0),
        scale,
    )
    return out


def _checked_parts(weight: Floats) -> list[Tensor]:
    """The weight's parts, with rows that are contiguous."""
    parts = [weight] if isinstance(weight, Tensor) else list(weight)
    for part in parts:
        wrong = part.dim() != 2 or part.dtype not in _KINDS or part.device.type != "cpu"
        if wrong or part.shape[1] != parts[0].shape[1]:
            raise ValueError(f"a weight of shape {tuple(part.shape)}, {part.dtype}, on {part.device}")
    return [part if part.stride(1) == 1 else part.contiguous() for part in parts]


def _part(tensor: Tensor) -> tuple[int, str, int, int]:
    return tensor.data_ptr(), _KINDS[tensor.dtype], tensor.stride(0), tensor.shape[0]


def _floats(values: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    if values is not None and values.shape != shape:
        raise ValueError(f"a bias, scales or a table of shape {tuple(values.shape)}, not {shape}")
    return None if values is None else values.to("cpu", torch.float32).contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _check_rows(x: Tensor, shape: tuple[int, int]) -> None:
    if x.shape != shape or x.dtype != torch.float32 or x.device.type != "cpu" or (shape[1] > 1 and x.stride(1) != 1):
        raise ValueError(f"{tuple(x.shape)} {x.dtype} on {x.device} where rows of {shape} float32 belong")
