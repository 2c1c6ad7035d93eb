"""Matrix products on prepacked weights by oneDNN, which every CPU build of PyTorch carries.

Packing once at load instead of never: on two Zen 5 cores a product of 1 to 512 rows takes 0.3 to 0.7 of ``F.linear``'s
time (benchmarks/kernels/bench_linear.py), since MKL's float32 kernels there read weights at less than half the memory
bandwidth.
"""

import torch
from torch import Tensor

__all__ = ["can_pack", "linear", "pack"]

PACKED_ROWS = 512
"""The number of rows that the packed layout is chosen for; it measured as good for decodes of 1 to 16 rows."""


def can_pack(weight: Tensor) -> bool:
    """Whether this build and processor multiply ``weight`` packed; the operators are PyTorch's own, but unlisted."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight") or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def pack(weight: Tensor) -> Tensor:
    """weight [out, in] → an opaque tensor of the same shape that only ``linear`` reads."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [num_tokens, in] · packed weight [out, in] ᵀ + bias [out] → [num_tokens, out]."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
