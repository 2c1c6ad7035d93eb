"""GPTQ checkpoints (Frantar et al. 2023) as AutoGPTQ and GPTQModel write them: 4 or 8 bits, any group, act-order.

qweight int32 [k · bits / 32, n], qzeros int32 [groups, n · bits / 32], scales [groups, n], g_idx int32 [k] (the group
of each input). Version 1 stores each zero less 1, modulo 2^bits; version 2 (``checkpoint_format: gptq_v2``) as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels.quantized import QuantizedWeight
from segue.quantization.base import CheckpointFormat, grouped_weight
from segue.quantization.int32 import order_by_group, pack, unpack

__all__ = ["GPTQ", "packed_tensors"]

_FORMATS = ("gptq", "gptq_v2")


@dataclass(frozen=True, slots=True)
class GPTQ(CheckpointFormat):
    bits: int
    group: int
    is_version_2: bool
    int8_activations: bool

    name: ClassVar[str] = "gptq"
    leaves: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales", "g_idx")
    markers: ClassVar[tuple[str, ...]] = ("qweight",)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], int8_activations: bool | None) -> "GPTQ":
        """Raises ConfigError for what is not written here."""
        bits, layout = config.get("bits"), config.get("checkpoint_format") or "gptq"
        if bits not in (4, 8):
            raise ConfigError(f"GPTQ weights of {bits} bits are not supported; 4 and 8 are")
        if layout not in _FORMATS or config.get("is_marlin_format"):
            raise ConfigError(f"GPTQ weights in the layout {layout!r} are not supported; {' and '.join(_FORMATS)} are")
        return cls(bits, int(config.get("group_size", 128)), layout == "gptq_v2", bool(int8_activations))

    def read(self, module: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        missing = {"qweight", "qzeros", "scales"} - tensors.keys()
        if missing:
            raise ConfigError(f"{module} has no {', '.join(sorted(missing))}")
        codes = unpack(tensors["qweight"], self.bits, 0).t()
        zeros = unpack(tensors["qzeros"], self.bits, 1)
        if not self.is_version_2:
            zeros = (zeros + 1) & (2**self.bits - 1)
        order = None
        if "g_idx" in tensors and self.group > 0:
            order = order_by_group(module, tensors["g_idx"], self.group)
        return grouped_weight(
            module,
            codes,
            tensors["scales"].t(),
            zeros.t()[: codes.shape[0]],
            bits=self.bits,
            group=self.group,
            int8_activations=self.int8_activations,
            order=order,
        )


def packed_tensors(codes: Tensor, scales: Tensor, groups: Tensor, bits: int) -> dict[str, Tensor]:
    """One weight's tensors by leaf, in version 1, symmetric: what ``GPTQ.read`` takes.

    codes uint8 [n, k], whose zero is 2^(``bits`` - 1); scales [n, groups]; ``groups`` [k]: that of each input. n and k
    are multiples of 32 / ``bits``.
    """
    n, num_groups = scales.shape
    zeros = torch.full((num_groups, n), 2 ** (bits - 1) - 1, dtype=torch.uint8, device=codes.device)
    return {
        "qweight": pack(codes, bits).t().contiguous(),
        "qzeros": pack(zeros, bits),
        "scales": scales.t().to(torch.float16).contiguous(),
        "g_idx": groups.to(torch.int32),
    }
