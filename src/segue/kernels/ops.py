"""The operators that layers call: check, then dispatch to the implementation for the device.

Given ``Traced`` values instead of tensors, an operator records itself (kernels/cpu/recorder.py) and computes nothing.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import cpu, onednn, plain, quantized
from segue.kernels.activations import ACTIVATIONS
from segue.kernels.cpu import quantized as native_quantized
from segue.kernels.cpu.recorder import Traced, TracedIds
from segue.kernels.metadata import AttentionMetadata, AttentionSpec
from segue.kernels.quantized import QuantizedWeight
from segue.kernels.rounding import QUICK_RANGES, Rounding, rounded
from segue.kernels.scaled_cache import CacheTensor

if TYPE_CHECKING:
    from segue.kernels.cpu.linear import Floats, PackedLinear

    Packed = Tensor | QuantizedWeight | PackedLinear
    """What ``pack`` gives."""

__all__ = [
    "Packed",
    "activate",
    "embedding",
    "layer_norm",
    "linear",
    "pack",
    "paged_attention",
    "quantize",
    "rms_norm",
    "soft_cap",
    "varlen_attention",
    "write_kv",
]


def pack(weight: "Floats | QuantizedWeight", bias: Tensor | None = None, *, gated: bool = False) -> "Packed":
    """weight [out, in] in the form that ``linear`` reads fastest on its device; ``weight`` itself where it is that.

    ``gated``: the outputs are gates and then as many ups.
    """
    if _is_native(weight):
        from segue.kernels.cpu import linear as native

        if not isinstance(weight, QuantizedWeight):
            return native.pack_float(weight, bias, gated=gated)
        if native_quantized.can_pack(weight):
            return native_quantized.pack(weight, bias, gated=gated)
        return native.pack_float(weight.dequantize(), bias, gated=gated)
    if isinstance(weight, QuantizedWeight):
        return weight
    whole = _whole(weight)
    return onednn.pack(whole) if onednn.can_pack(whole) else whole


def quantize(weight: "Floats", to: Rounding, bias: Tensor | None, *, gated: bool = False) -> "Packed":
    """weight [out, in] of floats, rounded and packed as ``pack`` does."""
    if _is_native(weight):
        return native_quantized.pack_rounded(weight, to, bias, gated=gated)
    return rounded(_whole(weight), to, ranges=QUICK_RANGES)


def _is_native(weight: "Floats | QuantizedWeight") -> bool:
    first = weight if isinstance(weight, Tensor | QuantizedWeight) else weight[0]
    return first.device.type == "cpu" and cpu.is_available()


def _whole(weight: "Floats") -> Tensor:
    return weight if isinstance(weight, Tensor) else torch.cat(list(weight))


def linear(x: Tensor, weight: "Packed", bias: Tensor | None, gate: str | None = None) -> Tensor:
    """x [num_tokens, in] · weight [out, in] ᵀ + bias [out] → [num_tokens, out]; ``weight`` packed or not.

    ``gate``: an activation; then gate(first half) * second half, [num_tokens, out / 2].
    """
    if isinstance(x, Traced):
        return x.recorder.linear(x, weight, gate or "none")
    if isinstance(weight, QuantizedWeight):
        out = quantized.linear(x, weight, bias)
    elif not isinstance(weight, Tensor):
        from segue.kernels.cpu.linear import linear as native_linear

        return native_linear(x.float(), weight, activation=gate or "none").to(x.dtype)
    elif weight.is_mkldnn:
        out = onednn.linear(x, weight, bias)
    else:
        out = F.linear(x, weight, bias)
    if gate is None:
        return out
    first, second = out.chunk(2, -1)
    return activate(first, gate) * second


def embedding(ids: Tensor, weight: Tensor) -> Tensor:
    """Row ``ids[i]`` of weight [num_embeddings, dim]; float32 on CPU with native kernels, whatever the weight is."""
    if isinstance(ids, TracedIds):
        return ids.recorder.embedding(ids, weight)
    rows = F.embedding(ids, weight)
    return rows.float() if rows.device.type == "cpu" and cpu.is_available() else rows


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) · weight over the last dimension; the product is in the wider of both precisions."""
    if isinstance(x, Traced):
        return x.recorder.norm(x, weight.shape[0], weight, None, eps, centered=False)
    if weight.dtype == x.dtype:
        return F.rms_norm(x, weight.shape, weight, eps)
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def layer_norm(x: Tensor, dim: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / std · weight + bias over the last dimension."""
    if isinstance(x, Traced):
        return x.recorder.norm(x, dim, weight, bias, eps, centered=True)
    return F.layer_norm(x, (dim,), weight, bias, eps)


def activate(x: Tensor, name: str) -> Tensor:
    """An activation of ``kernels.activations`` on every number."""
    if isinstance(x, Traced) and name != "none":
        return x.recorder.activate(x, name)
    return ACTIVATIONS[name](x)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap · tanh(x / cap)."""
    return x.recorder.activate(x, "none", soft_cap=cap) if isinstance(x, Traced) else torch.tanh(x / cap) * cap


def write_kv(k: Tensor, v: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, slot_mapping: Tensor) -> None:
    """k, v [num_tokens, num_kv_heads, d] → the slots ``slot_mapping`` [num_tokens] int64 of the caches."""
    if isinstance(k, Traced):
        k.recorder.write(k, v, k_cache, v_cache)
        return
    assert k.shape[0] == v.shape[0] == slot_mapping.shape[0], (k.shape, v.shape, slot_mapping.shape)
    _attention(k).write_kv(k, v, k_cache, v_cache, slot_mapping)


def paged_attention(
    q: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, meta: AttentionMetadata, spec: AttentionSpec
) -> Tensor:
    """Attention of packed queries over K/V in blocks.

    q [num_tokens, num_heads, d]; caches [num_blocks, block_size, num_kv_heads, d] → [num_tokens, num_heads, dv].
    """
    if isinstance(q, Traced):
        return q.recorder.paged_attention(q, k_cache, v_cache, meta, spec)
    assert q.shape[0] == meta.query_starts[-1], (q.shape, meta.query_starts[-1])
    return _attention(q).paged_attention(q, k_cache, v_cache, meta, spec)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, meta: AttentionMetadata, spec: AttentionSpec) -> Tensor:
    """Attention inside each packed input, without a cache. q [num_tokens, num_heads, d], k and v alike."""
    if isinstance(q, Traced):
        return q.recorder.varlen_attention(q, k, v, spec)
    assert q.shape[0] == meta.query_starts[-1], (q.shape, meta.query_starts[-1])
    return _attention(q).varlen_attention(q, k, v, meta, spec)


def _attention(q: Tensor) -> ModuleType:
    """Who attends for ``q``'s device and dtype."""
    if q.device.type == "cpu" and q.dtype == torch.float32 and cpu.is_available():
        return importlib.import_module("segue.kernels.cpu.attention")
    return plain
