"""The ways to round a float checkpoint's weights, by the names that ``--quantize`` takes.

| name               | weights                          | activations | output head  |
|--------------------|----------------------------------|-------------|--------------|
| `int8`             | int8, one scale an output        | int8 a row  | as weights   |
| `int4`             | int4, one scale a group          | int8 a row  | as `int8`    |
| `bitsandbytes`     | int8, one scale an output        | float       | as weights   |
| `eetq`             | the same                         | float       | as weights   |
| `bitsandbytes-nf4` | nf4, blocks of 64 inputs         | float       | 8 bits       |
| `bitsandbytes-fp4` | fp4, blocks of 64 inputs         | float       | 8 bits       |

LLM.int8() of bitsandbytes keeps the activations' outliers in float and rounds the rest; here all stay float, so that
nothing has to be found. Embeddings, norms and biases are never rounded. A weight whose number of inputs the group does
not divide gets a smaller group, down to 32, and 8 bits where that does not divide it either.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels.quantized import Kind, QuantizedWeight
from segue.quantization.rounding import FP4, NF4, to_int4, to_int8, to_table

__all__ = ["METHODS", "OnLoadMethod", "group_of", "method_named"]

BLOCK = 64
"""Inputs a scale of nf4 and fp4, as bitsandbytes has it by default."""
GROUP = 64
"""Inputs a scale of int4."""
SMALLEST_GROUP = 32
QUICK_RANGES = (1.0, 0.9, 0.8)
"""Of those that ``convert`` tries: 0.8% more error, half the time."""

_TABLES = {"bitsandbytes-nf4": NF4, "bitsandbytes-fp4": FP4}
METHODS = ("int8", "int4", "eetq", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")
_ROUNDS_ACTIVATIONS = ("int8", "int4")


def group_of(k: int, wanted: int) -> int | None:
    """The largest group that divides ``k`` inputs: ``wanted``, or half of it and so on; None: none does."""
    while k % wanted and wanted > SMALLEST_GROUP:
        wanted //= 2
    return None if k % wanted else wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLoadMethod:
    """Rounds weights [n, k] as they are read."""

    name: str
    int8_activations: bool
    group: int = GROUP
    ranges: tuple[float, ...] = QUICK_RANGES
    scale_dtype: torch.dtype = torch.float32

    def round(self, weight: Tensor) -> QuantizedWeight:
        """A layer's weight."""
        if self.name == "int4":
            return self._by_group(
                weight,
                self.group,
                lambda group: to_int4(
                    weight,
                    "i4" if self.int8_activations else "i4w",
                    group,
                    ranges=self.ranges,
                    scale_dtype=self.scale_dtype,
                ),
            )
        if self.name in _TABLES:
            return self._by_group(weight, BLOCK, lambda group: to_table(weight, "i4w", _TABLES[self.name], group))
        return self.round_head(weight)

    def round_head(self, weight: Tensor) -> QuantizedWeight:
        """The output head's weight: it chooses the tokens, and 4 bits there cost more quality than they save time."""
        kind: Kind = "i8" if self.int8_activations else "i8w"
        return to_int8(weight, kind, self.scale_dtype)

    def _by_group(self, weight: Tensor, wanted: int, round_to: Callable[[int], QuantizedWeight]) -> QuantizedWeight:
        group = group_of(weight.shape[1], wanted)
        return self.round_head(weight) if group is None else round_to(group)


def method_named(name: str, *, int8_activations: bool | None = None) -> OnLoadMethod:
    """``int8_activations``: None: as the table above says.

    Raises:
        ConfigError: no such method, or one that has no kernel for rounded activations.
    """
    if name not in METHODS:
        raise ConfigError(f"Unknown quantization method {name!r}; those for unquantized weights: {', '.join(METHODS)}")
    if int8_activations and name in _TABLES:
        raise ConfigError(f"`--quantize {name}` has no products with int8 activations; int4 has")
    rounds = name in _ROUNDS_ACTIVATIONS if int8_activations is None else int8_activations
    return OnLoadMethod(name=name, int8_activations=rounds)
