"""A weight in few bits, and its product in plain PyTorch: what quantization methods make and kernels take.

The plain product multiplies by the weight that the codes stand for, in float arithmetic, whatever the kind: kernels
that round activations to int8 (``i8``, ``i4``) differ from it by that rounding only.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

__all__ = ["KINDS", "Kind", "QuantizedWeight", "concatenated", "linear", "pack_nibbles", "unpack_nibbles"]

Kind = Literal["i8", "i8w", "i4", "i4w"]
"""Bits of the weight; ``w``: the weight alone is rounded, activations stay float. As in ``cpu/linear.h``."""
KINDS: tuple[Kind, ...] = ("i8", "i8w", "i4", "i4w")

BLOCK_BYTES = 16 * 2**20
"""Of weight that the plain product has in float at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedWeight:
    """weight[o, i] = (code[o, i] - zero) · scale, or table[code[o, i]] · scale; n outputs, k inputs.

    Scale and zero are those of output ``o`` (``group`` 0), or of its group ``i // group`` of inputs.
    """

    kind: Kind
    q: Tensor
    """8 bits: int8 [n, k]. 4 bits: uint8 [n, ceil(k / 2)], inputs 2j and 2j + 1 in the low and high half of byte j."""
    scales: Tensor
    """float32 [n], or [n, ceil(k / group)]."""
    zeros: Tensor | None = None
    """As ``scales``; None: 0 for 8 bits, 8 for 4 bits. Not used with a table."""
    group: int = 0
    table: Tensor | None = None
    """float32 [16]: what a 4-bit code stands for."""
    input_permutation: Tensor | None = None
    """int64 [k]: column j of the codes belongs to input ``input_permutation[j]``; None: to input j."""
    in_features: int

    def __post_init__(self) -> None:
        n, k = self.shape
        columns = k if self.bits == 8 else -(-k // 2)
        expected = (n,) if self.group == 0 else (n, -(-k // self.group))
        assert self.q.dtype == (torch.int8 if self.bits == 8 else torch.uint8), self.q.dtype
        assert self.q.shape == (n, columns), (self.q.shape, n, k)
        assert self.scales.shape == expected, (self.scales.shape, expected)
        assert self.scales.dtype == torch.float32, self.scales.dtype
        assert self.zeros is None or (self.zeros.shape == expected and self.zeros.dtype == torch.float32)
        assert self.table is None or (self.bits == 4 and self.table.shape == (16,))
        assert self.group % 2 == 0 or self.bits == 8, self.group

    @property
    def bits(self) -> int:
        return 8 if self.kind in ("i8", "i8w") else 4

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return self.q.shape[0], self.in_features

    @property
    def device(self) -> torch.device:
        return self.q.device

    @property
    def nbytes(self) -> int:
        tensors = (self.q, self.scales, self.zeros, self.table, self.input_permutation)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def codes(self) -> Tensor:
        """[n, k], one a byte: int8, or uint8 0…15 for 4 bits."""
        return self.q if self.bits == 8 else unpack_nibbles(self.q, self.in_features)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """[n, k] in the order of the inputs: the reference."""
        if self.table is not None:
            weight = self.table[self.codes.long()] * self._spread(self.scales)
        else:
            zeros = (8.0 if self.bits == 4 else 0.0) if self.zeros is None else self._spread(self.zeros)
            weight = (self.codes.float() - zeros) * self._spread(self.scales)
        if self.input_permutation is not None:
            weight = torch.empty_like(weight).index_copy_(1, self.input_permutation, weight)
        return weight.to(dtype)

    def _spread(self, of_groups: Tensor) -> Tensor:
        """One a group → one a code (or [n, 1], which broadcasts)."""
        if self.group == 0:
            return of_groups[:, None]
        return of_groups.repeat_interleave(self.group, dim=1)[:, : self.in_features]

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> "QuantizedWeight":
        """``change`` selects or reorders outputs: it is given every tensor that has one row an output."""
        zeros = None if self.zeros is None else change(self.zeros)
        return replace(self, q=change(self.q), scales=change(self.scales), zeros=zeros)

    def rows(self, start: int, stop: int) -> "QuantizedWeight":
        return self.map_rows(lambda tensor: tensor[start:stop])

    def to(self, device: torch.device) -> "QuantizedWeight":
        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            q=self.q.to(device),
            scales=self.scales.to(device),
            zeros=moved(self.zeros),
            table=moved(self.table),
            input_permutation=moved(self.input_permutation),
        )


def concatenated(parts: Seq[QuantizedWeight]) -> QuantizedWeight | None:
    """The parts' outputs after each other as one weight; None where kinds, groups or the inputs' orders differ."""
    first = parts[0]
    if any(
        (part.kind, part.group, part.in_features) != (first.kind, first.group, first.in_features)
        or (part.zeros is None) != (first.zeros is None)
        or not _equal(part.table, first.table)
        or not _equal(part.input_permutation, first.input_permutation)
        for part in parts
    ):
        return None
    return replace(
        first,
        q=torch.cat([part.q for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        zeros=None if first.zeros is None else torch.cat([part.zeros for part in parts if part.zeros is not None]),
    )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    """x [num_tokens, k] · weight [n, k] ᵀ + bias [n] → [num_tokens, n] in the dtype of x, on any device."""
    n, k = weight.shape
    out = x.new_empty(*x.shape[:-1], n)
    rows = max(1, BLOCK_BYTES // (4 * k))
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        block = weight.rows(start, stop).dequantize(x.dtype)
        of_block = None if bias is None else bias[start:stop]
        out[..., start:stop] = torch.nn.functional.linear(x, block, of_block)
    return out


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 0…15 [n, k] → [n, ceil(k / 2)]; an odd last column is filled up with 0."""
    if codes.shape[1] % 2:
        codes = torch.nn.functional.pad(codes, (0, 1))
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def unpack_nibbles(packed: Tensor, k: int) -> Tensor:
    """The inverse of ``pack_nibbles``: uint8 [n, k]."""
    codes = torch.empty(packed.shape[0], 2 * packed.shape[1], dtype=torch.uint8, device=packed.device)
    codes[:, ::2] = packed & 15
    codes[:, 1::2] = packed >> 4
    return codes[:, :k]
