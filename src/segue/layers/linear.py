"""Linear layers: one, or several that read the same input merged into one product."""

import logging
from collections.abc import Sequence as Seq

import torch
from torch import Tensor, nn

from segue.core.errors import ConfigError
from segue.kernels import ops
from segue.kernels.quantized import QuantizedWeight, concatenated
from segue.kernels.rounding import Rounding
from segue.layers.activation import activation_name
from segue.layers.base import Layer, emptied, parameter

__all__ = ["Linear", "MergedLinear"]

logger = logging.getLogger(__name__)


class Linear(Layer):
    """y = x · weightᵀ + bias. ``transposed``: the checkpoint stores weight as [in, out] (GPT-2's Conv1D).

    The weight comes as floats, ``load``, or in few bits, ``load_quantized``. Once packed, ``weight`` is but its shape.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        self.gate: str | None = None
        self.packed: ops.Packed | None = None
        self.quantized: QuantizedWeight | None = None
        self.rounding: Rounding | None = None
        """What ``pack`` rounds a weight of floats to, whatever their dtype; None: it stays in floats."""
        self.weight = parameter(out_features, in_features)
        self.bias = parameter(out_features) if bias else None

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        if self.transposed and name == "weight":
            tensor = tensor.t().contiguous()
        super().load(name, tensor, part)

    def load_quantized(self, weight: QuantizedWeight, part: int | None, dtype: torch.dtype) -> None:
        """``dtype``: that of the activations.

        Raises:
            ConfigError: the shape is not the one that config.json implies.
        """
        if part is not None or weight.shape != self.weight.shape:
            raise ConfigError(f"a quantized weight has shape {weight.shape}, expected {tuple(self.weight.shape)}")
        self.quantized = weight
        self.weight = emptied(self.weight.to(dtype))

    def missing(self) -> list[str]:
        if self.packed is not None:
            return []
        return [name for name in super().missing() if name != "weight" or self.quantized is None]

    @property
    def can_pack(self) -> bool:
        """All that the checkpoint has for this layer is there."""
        return not self.missing()

    def pack(self) -> None:
        """Once is enough: calls after the first do nothing."""
        if self.packed is not None:
            return
        if self.quantized is not None:
            self.packed, self.quantized = ops.pack(self.quantized, self.bias, gated=self.gate is not None), None
            return
        weight = self._floats()
        if self.rounding is not None:
            self.packed = ops.quantize(weight, self.rounding, self.bias, gated=self.gate is not None)
        else:
            self.packed = ops.pack(weight, self.bias, gated=self.gate is not None)
        if self.packed is not weight:
            self.weight = emptied(self.weight)

    def _floats(self) -> Tensor | list[Tensor]:
        """The weight, or the parts that it is in one after the other, which are given up with it."""
        return self.weight.data

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight if self.packed is None else self.packed, self.bias, self.gate)


class MergedLinear(Linear):
    """Several linear layers over one input as one product; ``forward`` returns their outputs side by side.

    ``gate``: the name of an activation; there are two parts then, and ``forward`` returns gate(first) * second.

    The checkpoint may hold the parts one by one (``part`` is then their index) or merged already (None). A merged
    tensor of several ``groups`` holds a share of every part for the first group, then for the second, and so on
    (GPT-NeoX: q, k and v of the first head, …); the module holds whole parts.
    """

    def __init__(
        self,
        in_features: int,
        out_features: Seq[int],
        *,
        bias: bool,
        transposed: bool = False,
        groups: int = 1,
        gate: str | None = None,
    ) -> None:
        super().__init__(in_features, sum(out_features), bias=bias, transposed=transposed)
        self.gate = gate if gate is None else activation_name(gate)
        self.parts, self.groups = tuple(out_features), groups
        self.keeps_parts = False
        """Parts of the weight stay apart, in the memory that they came in, until ``pack`` takes them from there."""
        self._float_parts: dict[int, Tensor] = {}
        self._quantized_parts: dict[int, QuantizedWeight] = {}
        self._loaded_parts: dict[str, set[int]] = {}

    def load(self, name: str, tensor: Tensor, part: int | None) -> None:
        if part is None:
            if self.transposed and name == "weight":
                tensor = tensor.t().contiguous()
            Layer.load(self, name, tensor if self.groups == 1 else self._ungrouped(tensor), part)
            return
        if self.transposed and name == "weight":
            tensor = tensor.t()
        expected = (self.parts[part], *self.get_parameter(name).shape[1:])
        if tensor.shape != expected:
            raise ConfigError(
                f"part {part} of {name} has shape {tuple(tensor.shape)} in the checkpoint, expected {expected}"
            )
        if self.keeps_parts and name == "weight":
            self._float_parts[part] = tensor
        else:
            self._part_of(name, part, tensor.dtype, tensor.device).copy_(tensor)
        self._loaded_parts.setdefault(name, set()).add(part)

    def load_quantized(self, weight: QuantizedWeight, part: int | None, dtype: torch.dtype) -> None:
        if part is None:
            whole = weight if self.groups == 1 else weight.map_rows(self._ungrouped)
            super().load_quantized(whole, None, dtype)
            return
        expected = (self.parts[part], self.weight.shape[1])
        if weight.shape != expected:
            raise ConfigError(f"part {part} of a quantized weight has shape {weight.shape}, expected {expected}")
        self._quantized_parts[part] = weight
        self._loaded_parts.setdefault("weight", set()).add(part)
        if len(self._quantized_parts) == len(self.parts):
            merged = concatenated([self._quantized_parts[i] for i in range(len(self.parts))])
            if merged is not None:
                self._quantized_parts.clear()
                super().load_quantized(merged, None, dtype)
        if self.weight.is_meta:
            self.weight = emptied(self.weight.to(dtype))

    def missing(self) -> list[str]:
        partly = [name for name, parts in self._loaded_parts.items() if len(parts) < len(self.parts)]
        return [name for name in super().missing() if name != "weight" or not self._float_parts] + partly

    @property
    def can_pack(self) -> bool:
        return not self.missing() and not self._quantized_parts

    def finish_loading(self) -> None:
        """Parts of different formats, or with their inputs in different orders, are no one product in few bits."""
        if not self._quantized_parts:
            return
        logger.warning("Parts of a merged layer are quantized differently: it runs with float weights")
        for part, floats in self._float_parts.items():
            self._part_of("weight", part, floats.dtype, floats.device).copy_(floats)
        self._float_parts.clear()
        for part, weight in self._quantized_parts.items():
            target = self._part_of("weight", part, self.weight.dtype, weight.device)
            target.copy_(weight.dequantize(self.weight.dtype))
        self._quantized_parts.clear()

    def pack(self) -> None:
        super().pack()
        self._float_parts.clear()

    def _floats(self) -> Tensor | list[Tensor]:
        if not self._float_parts:
            return super()._floats()
        return [self._float_parts[part] for part in range(len(self.parts))]

    def _part_of(self, name: str, part: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The rows of a part in the merged parameter, which gets its memory with the first."""
        merged = self.get_parameter(name)
        if merged.is_meta:
            merged = nn.Parameter(torch.empty(merged.shape, dtype=dtype, device=device), requires_grad=False)
            setattr(self, name, merged)
        return merged.data.narrow(0, sum(self.parts[:part]), self.parts[part])

    def _ungrouped(self, tensor: Tensor) -> Tensor:
        if tensor.shape[0] != sum(self.parts):
            return tensor  # ``load`` tells what is wrong
        by_group = tensor.view(self.groups, -1, *tensor.shape[1:])
        shares = by_group.split([part // self.groups for part in self.parts], dim=1)
        return torch.cat([share.flatten(0, 1) for share in shares])

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """[num_tokens, sum(parts)] → one [num_tokens, part] each, as views."""
        return x.split(list(self.parts), dim=-1)
