"""Linear layers: one, or several that read the same input merged into one product."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn

from segue.core.errors import ConfigError
from segue.kernels import ops
from segue.layers.base import Layer, parameter

__all__ = ["Linear", "MergedLinear"]


class Linear(Layer):
    """y = x · weightᵀ + bias. ``transposed``: the checkpoint stores weight as [in, out] (GPT-2's Conv1D)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        self.weight = parameter(out_features, in_features)
        self.bias = parameter(out_features) if bias else None

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        if self.transposed and name == "weight":
            tensor = tensor.t().contiguous()
        super().load(name, tensor, part)

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class MergedLinear(Linear):
    """Several linear layers over one input as one product; ``forward`` returns their outputs side by side.

    The checkpoint may hold the parts one by one (``part`` is then their index) or merged already (None).
    """

    def __init__(self, in_features: int, out_features: Seq[int], *, bias: bool, transposed: bool = False) -> None:
        super().__init__(in_features, sum(out_features), bias=bias, transposed=transposed)
        self.parts = tuple(out_features)

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        if part is None:
            super().load(name, tensor, part)
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

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """[num_tokens, sum(parts)] → one [num_tokens, part] each, as views."""
        return torch.split(x, list(self.parts), dim=-1)
