"""Attention in C++: ``kernels/plain.py``'s operators on CPU tensors. Checks what ``_native`` takes on trust."""

import torch
from torch import Tensor

from segue.kernels import reference
from segue.kernels.cpu import _native
from segue.kernels.metadata import AttentionMetadata, AttentionSpec, RelativeBias
from segue.kernels.scaled_cache import CHUNK_SLOTS, CacheTensor, ScaledCache

__all__ = [
    "distance_bias",
    "native_cache",
    "native_sequences",
    "native_spec",
    "paged_attention",
    "varlen_attention",
    "write_kv",
]

_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}
"""In the order of CacheKind (attention.h)."""


def distance_bias(bias: RelativeBias) -> Tensor:
    """T5's bias by distance: [num_heads, 2 * max_distance + 1] float32, from ``-max_distance`` to ``max_distance``.

    Beyond, the ends hold.
    """
    relative = torch.arange(-bias.max_distance, bias.max_distance + 1)
    buckets = reference.relative_buckets(relative, bias.table.shape[0], bias.max_distance, bias.bidirectional)
    return bias.table.float()[buckets].t().contiguous()


def write_kv(k: Tensor, v: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, slot_mapping: Tensor) -> None:
    """k, v [num_tokens, num_kv_heads, d] → the slots ``slot_mapping`` [num_tokens] int64 of the caches."""
    k, v = _rows(k), _rows(v)
    cache = native_cache(k_cache, v_cache)
    assert (k.shape[1:], v.shape[1:]) == (k_cache.shape[2:], v_cache.shape[2:]), (k.shape, k_cache.shape, v.shape)
    assert (slot_mapping.dtype, slot_mapping.shape) == (torch.int64, k.shape[:1]), slot_mapping
    slot_mapping = slot_mapping.contiguous()
    _native.write_kv(
        k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0), k.shape[0], slot_mapping.data_ptr(), cache
    )  # fmt: skip


def paged_attention(
    q: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, meta: AttentionMetadata, spec: AttentionSpec
) -> Tensor:
    """q [num_tokens, num_heads, d]; caches [num_blocks, block_size, num_kv_heads, d] → [num_tokens, num_heads, dv].

    The caches may be float32, float16, bfloat16, or int8 with scales.
    """
    rows = _rows(q)
    out = torch.empty(q.shape[0], q.shape[1], v_cache.shape[-1])
    assert q.shape[1:] == (spec.num_heads, k_cache.shape[-1]), (q.shape, k_cache.shape)
    cache = native_cache(k_cache, v_cache)
    native, kept = native_spec(spec, k_cache.shape[-1], v_cache.shape[-1], _shared_bias(spec, meta))
    _native.paged_attention(
        rows.data_ptr(), rows.stride(0), cache, native_sequences(meta), native, out.data_ptr(), out.stride(0)
    )
    del kept
    return out.to(q.dtype)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, meta: AttentionMetadata, spec: AttentionSpec) -> Tensor:
    """Self-attention over packed inputs without a cache (encoders): q, k, v [num_tokens, heads, d]."""
    q_rows, k_rows, v_rows = _rows(q), _rows(k), _rows(v)
    assert q.shape == (k.shape[0], spec.num_heads, k.shape[2]), (q.shape, k.shape)
    assert k.shape[:2] == v.shape[:2] == (q.shape[0], spec.num_kv_heads), (k.shape, v.shape)
    out = torch.empty(q.shape[0], q.shape[1], v.shape[-1])
    native, kept = native_spec(spec, k.shape[-1], v.shape[-1], _shared_bias(spec, meta))
    _native.packed_attention(
        q_rows.data_ptr(), q_rows.stride(0), k_rows.data_ptr(), k_rows.stride(0), v_rows.data_ptr(), v_rows.stride(0),
        native_sequences(meta), native, out.data_ptr(), out.stride(0),
    )  # fmt: skip
    del kept
    return out.to(q.dtype)


def _rows(x: Tensor) -> Tensor:
    """x [num_tokens, heads, d] in float32, each row's heads one after the other; itself where it is that."""
    x = x.float()
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def native_cache(k_cache: CacheTensor, v_cache: CacheTensor) -> _native.Cache:
    """Addresses: the caller keeps the caches alive."""
    assert k_cache.dtype == v_cache.dtype, (k_cache.dtype, v_cache.dtype)
    assert k_cache.shape[:3] == v_cache.shape[:3]
    by_dims = _numbers(k_cache).stride(3) != 1
    by_heads = by_dims or not _numbers(v_cache).is_contiguous()
    assert not by_dims or k_cache.shape[1] % CHUNK_SLOTS == 0, k_cache.shape
    order = (0, 2, 1, 3) if by_heads else (0, 1, 2, 3)
    keys, key_scales = _addresses(k_cache, (0, 2, 3, 1) if by_dims else order)
    values, value_scales = _addresses(v_cache, order)
    return _native.Cache.make(
        keys=keys,
        values=values,
        kind=_KINDS[k_cache.dtype],
        block_size=k_cache.shape[1],
        kv_heads=k_cache.shape[2],
        key_dim=k_cache.shape[3],
        value_dim=v_cache.shape[3],
        key_scales=key_scales,
        value_scales=value_scales,
        by_heads=by_heads,
        keys_by_dims=by_dims,
    )


def _numbers(cache: CacheTensor) -> Tensor:
    return cache.codes if isinstance(cache, ScaledCache) else cache


def _addresses(cache: CacheTensor, order: tuple[int, ...]) -> tuple[int, int]:
    """Of the numbers, whose dimensions lie in memory in this order, and of their scales; 0 where there are none."""

    def address(tensor: Tensor, order: tuple[int, ...]) -> int:
        assert tensor.permute(order).is_contiguous(), (tensor.shape, tensor.stride())
        return tensor.data_ptr()

    if not isinstance(cache, ScaledCache):
        return address(cache, order), 0
    assert (cache.scales.shape, cache.scales.dtype) == (cache.shape[:3], torch.float32)
    return address(cache.codes, order), address(cache.scales, tuple(dim for dim in order if dim < 3))


def native_spec(
    spec: AttentionSpec, key_dim: int, value_dim: int, bias: Tensor | None
) -> tuple[_native.AttentionSpec, tuple[Tensor | None, ...]]:
    """The layer's attention for ``_native``, and the tensors whose addresses are in it, for the caller to keep alive.

    ``bias``: the ``distance_bias`` of its relative bias, if it has one.
    """
    slopes = None if spec.alibi_slopes is None else spec.alibi_slopes.float().contiguous()
    sinks = None if spec.sinks is None else spec.sinks.float().contiguous()
    native = _native.AttentionSpec.make(
        num_heads=spec.num_heads,
        kv_heads=spec.num_kv_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        scale=spec.scale,
        causal=spec.causal,
        window=spec.sliding_window or 0,
        soft_cap=spec.soft_cap or 0.0,
        alibi_slopes=0 if slopes is None else slopes.data_ptr(),
        alibi_is_rounded=spec.alibi_is_rounded,
        distance_bias=0 if bias is None else bias.data_ptr(),
        max_distance=0 if spec.relative_bias is None else spec.relative_bias.max_distance,
        sinks=0 if sinks is None else sinks.data_ptr(),
    )
    return native, (slopes, sinks, bias)


def _shared_bias(spec: AttentionSpec, meta: AttentionMetadata) -> Tensor | None:
    """The layer's ``distance_bias``; made once a step for all layers that have the same."""
    bias = spec.relative_bias
    if bias is None:
        return None
    key = ("distance bias", bias)  # itself, not its id, which a later one may have
    if key not in meta.shared:
        meta.shared[key] = distance_bias(bias)
    return meta.shared[key]


def native_sequences(meta: AttentionMetadata) -> tuple[int, int, int, int, int]:
    """The step's sequences as ``_native`` takes them (attention.h: Sequences), in arrays that ``meta`` keeps alive."""
    if meta.packed is None:
        meta.packed = _native.PackedSequences(meta.query_lens, meta.kv_lens, meta.block_tables, meta.block_size)
    return meta.packed.given
