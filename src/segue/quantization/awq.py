"""AWQ checkpoints (Lin et al. 2023) in the GEMM layout: 4 bits, groups, zero points.

qweight int32 [k, n / 8] and qzeros int32 [groups, n / 8] hold outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight from the lowest
bits on; scales [groups, n].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels.quantized import QuantizedWeight
from segue.quantization.base import CheckpointFormat, grouped_weight
from segue.quantization.int32 import unpack

__all__ = ["AWQ"]

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class AWQ(CheckpointFormat):
    group: int
    int8_activations: bool

    name: ClassVar[str] = "awq"
    leaves: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales")
    markers: ClassVar[tuple[str, ...]] = ("qweight",)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], int8_activations: bool | None) -> "AWQ":
        """Raises ConfigError for what is not written here."""
        bits, version = config.get("bits", config.get("w_bit")), str(config.get("version", "gemm")).lower()
        if bits != 4:
            raise ConfigError(f"AWQ weights of {bits} bits are not supported; 4 are")
        if version != "gemm":
            raise ConfigError(f"AWQ weights in the layout {version!r} are not supported; 'gemm' is")
        group = int(config.get("group_size", config.get("q_group_size", 128)))
        return cls(group, bool(int8_activations))

    def read(self, module: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        missing = {"qweight", "scales"} - tensors.keys()
        if missing:
            raise ConfigError(f"{module} has no {', '.join(sorted(missing))}")
        zeros = tensors.get("qzeros")
        return grouped_weight(
            module,
            unpack(tensors["qweight"], 4, 1, _ORDER).t(),
            tensors["scales"].t(),
            None if zeros is None else unpack(zeros, 4, 1, _ORDER).t(),
            bits=4,
            group=self.group,
            int8_activations=self.int8_activations,
        )
