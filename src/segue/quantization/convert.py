"""Rounded weights as tensors of a compressed-tensors checkpoint, and the config that says how to read them.

The layout is the one that other engines read: int-quantized where weights of 8 bits meet int8 activations, else
pack-quantized. Scales are float32 for 8 bits and float16 for 4.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from segue.kernels.quantized import QuantizedWeight
from segue.kernels.rounding import RANGES, Rounding, rounded
from segue.quantization.compressed_tensors import HEAD_KEY, HEAD_KINDS
from segue.quantization.int32 import pack

__all__ = ["CompressedWeights"]

_INT8_ACTIVATIONS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}


class CompressedWeights:
    """Rounds one weight after the other, and remembers what the config must say of them."""

    def __init__(self) -> None:
        self._rounded: dict[str, Rounding] = {}

    def add(self, module: str, weight: Tensor, to: Rounding) -> dict[str, Tensor]:
        """The tensors of ``module``'s weight [n, k], by their full names."""
        self._rounded[module] = to
        tensors = _tensors(rounded(weight, to, ranges=RANGES))
        return {f"{module}.{leaf}": tensor for leaf, tensor in tensors.items()}

    def config(self, tied_head: str | None, rounded_to: Rounding) -> dict[str, Any]:
        """``quantization_config``.

        ``tied_head``: the module that shares the embeddings' weight and so is not stored; it is to be
        ``rounded_to`` when it loads. Most modules' scheme is that of all linear layers; others are named.
        """
        counts = Counter(self._rounded.values())
        groups = {}
        for number, (to, _) in enumerate(counts.most_common()):
            modules = [module for module, other in self._rounded.items() if other == to]
            groups[f"group_{number}"] = _group(to, ["Linear"] if number == 0 else modules)
        layouts = {_layout(to) for to in counts}
        config: dict[str, Any] = {
            "quant_method": "compressed-tensors",
            "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": [] if tied_head is None else [tied_head],
            "kv_cache_scheme": None,
        }
        return config if tied_head is None else {**config, HEAD_KEY: HEAD_KINDS[rounded_to.kind]}


def _layout(to: Rounding) -> str:
    return "int-quantized" if to.kind == "i8" else "pack-quantized"


def _group(to: Rounding, targets: list[str]) -> dict[str, Any]:
    bits = 8 if to.kind in ("i8", "i8w") else 4
    return {
        "targets": targets,
        "format": _layout(to),
        "weights": {
            "num_bits": bits,
            "type": "int",
            "symmetric": True,
            "strategy": "group" if to.group else "channel",
            "group_size": to.group or None,
            "dynamic": False,
        },
        "input_activations": None if to.kind.endswith("w") else _INT8_ACTIVATIONS,
        "output_activations": None,
    }


def _tensors(weight: QuantizedWeight) -> dict[str, Tensor]:
    n, k = weight.shape
    if weight.kind == "i8":
        return {"weight": weight.q, "weight_scale": weight.scales.view(n, 1)}
    codes = (weight.q.to(torch.int16) + 128).to(torch.uint8) if weight.bits == 8 else weight.codes
    scales = weight.scales.view(n, -1)
    return {
        "weight_packed": pack(codes, weight.bits),
        "weight_scale": scales.half() if weight.bits == 4 else scales,
        "weight_shape": torch.tensor([n, k]),
    }
