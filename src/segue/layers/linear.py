"""Linear layers: one, or several that read the same input merged into one product."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn

from segue.core.errors import ConfigError
from segue.kernels import ops
from segue.layers.base import Layer, emptied, parameter

__all__ = ["Linear", "MergedLinear"]


class Linear(Layer):
    """y = x · weightᵀ + bias. ``transposed``: the checkpoint stores weight as [in, out] (GPT-2's Conv1D)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        self.packed: Tensor | None = None
        self.weight = parameter(out_features, in_features)
        self.bias = parameter(out_features) if bias else None

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        if self.transposed and name == "weight":
            tensor = tensor.t().contiguous()
        super().load(name, tensor, part)

    def pack(self) -> None:
        weight = self.weight.data
        self.packed = ops.pack(weight)
        if self.packed is not weight:
            self.weight = emptied(weight)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight if self.packed is None else self.packed, self.bias)


class MergedLinear(Linear):
    """Several linear layers over one input as one product; ``forward`` returns their outputs side by side.

    The checkpoint may hold the parts one by one (``part`` is then their index) or merged already (None). A merged
    tensor of several ``groups`` holds a share of every part for the first group, then for the second, and so on
    (GPT-NeoX: q, k and v of the first head, …); the module holds whole parts.
    """

    def __init__(
        self, in_features: int, out_features: Seq[int], *, bias: bool, transposed: bool = False, groups: int = 1
    ) -> None:
        super().__init__(in_features, sum(out_features), bias=bias, transposed=transposed)
        self.parts, self.groups = tuple(out_features), groups

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        if part is None:
            super().load(name, tensor if self.groups == 1 else self._ungrouped(tensor), part)
            return
        merged = self.get_parameter(name)
        if merged.is_meta:
            merged = nn.Parameter(
                torch.empty(merged.shape, dtype=tensor.dtype, device=tensor.device), requires_grad=False
            )
            setattr(self, name, merged)
        if self.transposed and name == "weight":
            tensor = tensor.t()
        target = merged.data.narrow(0, sum(self.parts[:part]), self.parts[part])
        if target.shape != tensor.shape:
            raise ConfigError(
                f"part {part} of {name} has shape {tuple(tensor.shape)} in the checkpoint, "
                f"expected {tuple(target.shape)}"
            )
        target.copy_(tensor)

    def _ungrouped(self, tensor: Tensor) -> Tensor:
        if tensor.shape[0] != sum(self.parts):
            return tensor  # ``Layer.load`` tells what is wrong
        by_group = tensor.view(self.groups, -1, *tensor.shape[1:])
        shares = by_group.split([part // self.groups for part in self.parts], dim=1)
        return torch.cat([share.flatten(0, 1) for share in shares])

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """[num_tokens, sum(parts)] → one [num_tokens, part] each, as views."""
        return torch.split(x, list(self.parts), dim=-1)
