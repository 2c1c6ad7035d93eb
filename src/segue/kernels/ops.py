"""The operators that layers call: check, then dispatch to the implementation for the device."""

import torch.nn.functional as F
from torch import Tensor

from segue.kernels import onednn, plain, quantized
from segue.kernels.metadata import AttentionMetadata, AttentionSpec
from segue.kernels.quantized import QuantizedWeight

__all__ = ["Packed", "linear", "pack", "paged_attention", "varlen_attention", "write_kv"]


Packed = Tensor | QuantizedWeight
"""What ``pack`` gives."""


def pack(weight: Packed) -> Packed:
    """weight [out, in] in the form that ``linear`` reads fastest on its device; ``weight`` itself where it is that."""
    if isinstance(weight, QuantizedWeight):
        return weight
    return onednn.pack(weight) if onednn.can_pack(weight) else weight


def linear(x: Tensor, weight: Packed, bias: Tensor | None) -> Tensor:
    """x [num_tokens, in] · weight [out, in] ᵀ + bias [out] → [num_tokens, out]; ``weight`` packed or not."""
    if isinstance(weight, QuantizedWeight):
        return quantized.linear(x, weight, bias)
    if weight.is_mkldnn:
        return onednn.linear(x, weight, bias)
    return F.linear(x, weight, bias)


def write_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """k, v [num_tokens, num_kv_heads, d] → the slots ``slot_mapping`` [num_tokens] int64 of the caches."""
    assert k.shape[0] == v.shape[0] == slot_mapping.shape[0], (k.shape, v.shape, slot_mapping.shape)
    plain.write_kv(k, v, k_cache, v_cache, slot_mapping)


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, meta: AttentionMetadata, spec: AttentionSpec
) -> Tensor:
    """Attention of packed queries over K/V in blocks.

    q [num_tokens, num_heads, d]; caches [num_blocks, block_size, num_kv_heads, d] → [num_tokens, num_heads, dv].
    """
    assert q.shape[0] == meta.query_starts[-1], (q.shape, meta.query_starts[-1])
    return plain.paged_attention(q, k_cache, v_cache, meta, spec)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, meta: AttentionMetadata, spec: AttentionSpec) -> Tensor:
    """Attention inside each packed input, without a cache. q [num_tokens, num_heads, d], k and v alike."""
    assert q.shape[0] == meta.query_starts[-1], (q.shape, meta.query_starts[-1])
    return plain.varlen_attention(q, k, v, meta, spec)
