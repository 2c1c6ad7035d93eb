"""The ways to round a float checkpoint's weights, by the names that ``--quantize`` takes.

| name               | weights                      | activations           | output head |
|--------------------|------------------------------|-----------------------|-------------|
| `int8`             | int8, one scale an output    | int8, a scale a row   | as weights  |
| `int4`             | int4, groups of 64 inputs    | int8, by row and group| as `int8`   |
| `bitsandbytes`     | int8, one scale an output    | float                 | as weights  |
| `eetq`             | the same                     | float                 | as weights  |
| `bitsandbytes-nf4` | nf4, blocks of 64 inputs     | float                 | as `eetq`   |
| `bitsandbytes-fp4` | fp4, blocks of 64 inputs     | float                 | as `eetq`   |

LLM.int8() of bitsandbytes keeps the activations' outliers in float and rounds the rest; here all stay float, so that
nothing has to be found. Embeddings, norms and biases are never rounded. The head has 8 bits everywhere: it chooses the
tokens, and is read once a step. A weight whose number of inputs the group does not divide gets a smaller group, down to
32, and 8 bits where that does not divide it either.
"""

from dataclasses import dataclass

from segue.core.errors import ConfigError
from segue.kernels.rounding import FP4, NF4, Rounding

__all__ = ["GROUP", "METHODS", "OnLoadMethod", "method_named"]

GROUP = 64
"""Inputs a scale of int4, nf4 and fp4; bitsandbytes' default too."""
SMALLEST_GROUP = 32

_TABLES = {"bitsandbytes-nf4": NF4, "bitsandbytes-fp4": FP4}
METHODS = ("int8", "int4", "eetq", "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4")
_ROUNDS_ACTIVATIONS = ("int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLoadMethod:
    """What layers' weights are rounded to."""

    name: str
    int8_activations: bool
    group: int = GROUP

    @property
    def of_head(self) -> Rounding:
        """For the output head."""
        return Rounding(kind="i8" if self.int8_activations else "i8w")

    def of_layer(self, in_features: int) -> Rounding:
        """For any other linear layer."""
        group = _group_of(in_features, self.group)
        if self.name not in ("int4", *_TABLES) or group is None:
            return self.of_head
        return Rounding(kind="i4" if self.int8_activations else "i4w", group=group, table=_TABLES.get(self.name))


def method_named(name: str, *, int8_activations: bool | None = None, group: int = GROUP) -> OnLoadMethod:
    """``int8_activations``: None: as the table above says.

    Raises:
        ConfigError: no such method, or one that has no kernel for rounded activations.
    """
    if name not in METHODS:
        raise ConfigError(f"Unknown quantization method {name!r}; those for unquantized weights: {', '.join(METHODS)}")
    if int8_activations and name in _TABLES:
        raise ConfigError(f"`--quantize {name}` has no products with int8 activations; int4 has")
    rounds = name in _ROUNDS_ACTIVATIONS if int8_activations is None else int8_activations
    return OnLoadMethod(name=name, int8_activations=rounds, group=group)


def _group_of(k: int, wanted: int) -> int | None:
    """The largest group that divides ``k`` inputs: ``wanted``, or half of it and so on; None: none does."""
    while k % wanted and wanted > SMALLEST_GROUP:
        wanted //= 2
    return None if k % wanted else wanted
