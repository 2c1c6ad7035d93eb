"""Checkpoints saved by transformers with bitsandbytes: LLM.int8() and the 4-bit tables.

8 bits: weight int8 [n, k], SCB [n] the largest magnitude of each output. 4 bits: weight uint8 [n · k / 2, 1], the first
code of each pair in the high half; weight.absmax one scale a block of the flattened weight, itself rounded to 8 bits
where ``weight.nested_*`` are there; weight.quant_map the table; the shape and the block's size in a JSON text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels.quantized import QuantizedWeight, pack_nibbles
from segue.quantization.base import CheckpointFormat

__all__ = ["BitsAndBytes"]

_STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")


@dataclass(frozen=True, slots=True)
class BitsAndBytes(CheckpointFormat):
    name: ClassVar[str] = "bitsandbytes"
    leaves: ClassVar[tuple[str, ...]] = (
        *_STATES,
        "weight.absmax",
        "weight.quant_map",
        "weight.nested_absmax",
        "weight.nested_quant_map",
        "weight_format",
        "SCB",
        "weight",
    )
    markers: ClassVar[tuple[str, ...]] = ("SCB", "weight.absmax")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], int8_activations: bool | None) -> "BitsAndBytes":
        """Raises ConfigError: rounded activations are asked for, for which there is no kernel."""
        if int8_activations:
            raise ConfigError("checkpoints of bitsandbytes run with float activations only")
        return cls()

    def read(self, module: str, tensors: Mapping[str, Tensor]) -> QuantizedWeight:
        weight = tensors.get("weight")
        if weight is None:
            raise ConfigError(f"{module} has no weight")
        if "SCB" in tensors:
            scales = tensors["SCB"].to(torch.float32) / 127
            return QuantizedWeight(kind="i8w", q=weight.contiguous(), scales=scales, in_features=weight.shape[1])
        state = next((tensors[name] for name in _STATES if name in tensors), None)
        if state is None or "weight.quant_map" not in tensors:
            raise ConfigError(f"{module} has no quantization state")
        facts = json.loads(bytes(state.tolist()))
        n, k = facts["shape"]
        block = int(facts["blocksize"])
        if k % block:
            raise ConfigError(f"{module}: blocks of {block} run over the ends of outputs of {k} inputs")
        packed = weight.reshape(n, k // 2)
        codes = torch.stack((packed >> 4, packed & 15), dim=2).view(n, k)
        return QuantizedWeight(
            kind="i4w",
            q=pack_nibbles(codes),
            scales=_absmax(tensors, facts).view(n, k // block),
            group=block,
            table=tensors["weight.quant_map"].to(torch.float32),
            in_features=k,
        )


def _absmax(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Tensor:
    absmax = tensors["weight.absmax"]
    if "weight.nested_absmax" not in tensors:
        return absmax.to(torch.float32)
    blocks = tensors["weight.nested_absmax"].to(torch.float32)
    spread = blocks.repeat_interleave(int(facts["nested_blocksize"]))[: absmax.numel()]
    values = tensors["weight.nested_quant_map"].to(torch.float32)[absmax.long()]
    return values * spread + float(facts["nested_offset"])
