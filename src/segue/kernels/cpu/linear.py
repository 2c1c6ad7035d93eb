"""Packed weights on the CPU and their products: the checked side of ``_native``'s, which takes addresses."""

from typing import Literal

import torch
from torch import Tensor

from segue.kernels.cpu import _native
from segue.kernels.cpu._native import PackedLinear

__all__ = ["FloatKind", "PackedLinear", "linear", "pack_float"]

FloatKind = Literal["f32", "f16", "bf16"]


_KINDS: dict[torch.dtype, FloatKind] = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def pack_float(
    weight: Tensor, bias: Tensor | None = None, *, kind: FloatKind | None = None, gated: bool = False
) -> PackedLinear:
    """weight [n, k] float32, float16 or bfloat16, stored as ``kind`` (its own by default), and bias [n].

    ``gated``: the first n/2 outputs are gates and the others their ups; products are act(gate) * up, [rows, n/2].
    """
    weight, bias_address, _bias = _checked(weight, bias)
    return PackedLinear.pack_float(
        kind or _KINDS[weight.dtype],
        weight.data_ptr(),
        _KINDS[weight.dtype],
        weight.stride(0),
        *weight.shape,
        bias_address,
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
        0 if residual is None else residual.data_ptr(),
        0 if residual is None else residual.stride(0),
        scale,
    )
    return out


def _checked(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int, Tensor | None]:
    """The weight with rows that are contiguous; the bias's address, and what keeps it alive."""
    if weight.dim() != 2 or weight.dtype not in _KINDS or weight.device.type != "cpu":
        raise ValueError(f"a weight of shape {tuple(weight.shape)}, {weight.dtype}, on {weight.device}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"a bias of shape {tuple(bias.shape)} for a weight of shape {tuple(weight.shape)}")
    floats = None if bias is None else bias.to(torch.float32).contiguous()
    return (
        weight if weight.stride(1) == 1 else weight.contiguous(),
        0 if floats is None else floats.data_ptr(),
        floats,
    )


def _check_rows(x: Tensor, shape: tuple[int, int]) -> None:
    if x.shape != shape or x.dtype != torch.float32 or x.device.type != "cpu" or (shape[1] > 1 and x.stride(1) != 1):
        raise ValueError(f"{tuple(x.shape)} {x.dtype} on {x.device} where rows of {shape} float32 belong")
