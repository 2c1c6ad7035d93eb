"""Attention in plain PyTorch operators: any device, any dtype. The first implementation behind ``ops``.

Each prefill chunk runs by itself, on a view of the cache where its blocks are consecutive. So does each decode on CPU;
on a GPU, where a launch costs more than a copy, decodes run as one padded batch over gathered blocks. Masks and biases
are built once a step (``AttentionMetadata.shared``).
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import reference
from segue.kernels.metadata import AttentionMetadata, AttentionSpec
from segue.kernels.scaled_cache import CacheTensor, ScaledCache

__all__ = ["paged_attention", "slots_of", "varlen_attention", "write_kv"]


def write_kv(k: Tensor, v: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, slot_mapping: Tensor) -> None:
    for rows, cache in ((k, k_cache), (v, v_cache)):
        if isinstance(cache, ScaledCache):
            cache.write(rows, slot_mapping)
        else:
            size = cache.shape[1]
            cache.index_put_((slot_mapping // size, slot_mapping % size), rows.to(cache.dtype))


def slots_of(cache: CacheTensor, blocks: slice | Tensor, dtype: torch.dtype) -> Tensor:
    """The slots of ``blocks`` (see ``AttentionMetadata.sequence_blocks``) in order: [num_slots, num_kv_heads, d].

    ``index_select`` copies whole rows and took a third of the time of indexing.
    """
    if isinstance(cache, ScaledCache):
        chosen = cache.widened(blocks)
    else:
        chosen = cache[blocks] if isinstance(blocks, slice) else cache.index_select(0, blocks)
    return chosen.flatten(0, 1).to(dtype)


def paged_attention(
    q: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, meta: AttentionMetadata, spec: AttentionSpec
) -> Tensor:
    num_decodes = meta.num_decodes
    out = q.new_empty(q.shape[0], q.shape[1], v_cache.shape[-1])
    if num_decodes:
        decode = _decode_each if q.device.type == "cpu" else _decode_padded
        decode(q, k_cache, v_cache, meta, spec, out)
    for i in range(num_decodes, len(meta.query_lens)):
        start, end = meta.query_starts[i], meta.query_starts[i + 1]
        kv_len = meta.kv_lens[i]
        blocks = meta.sequence_blocks[i]
        k = slots_of(k_cache, blocks, q.dtype)[:kv_len]
        v = slots_of(v_cache, blocks, q.dtype)[:kv_len]
        out[start:end] = _one(q[start:end], k, v, spec, meta, kv_len - (end - start))
    return out


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, meta: AttentionMetadata, spec: AttentionSpec) -> Tensor:
    """Self-attention over packed inputs without a cache (encoders)."""
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[-1])
    for start, end in pairwise(meta.query_starts):
        out[start:end] = _one(q[start:end], k[start:end], v[start:end], spec, meta, 0)
    return out


def _one(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, meta: AttentionMetadata, first: int) -> Tensor:
    """q [num_queries, num_heads, d] against all of k, v [num_keys, num_kv_heads, d]; ``first``: position of q[0]."""
    num_queries, num_keys = q.shape[0], k.shape[0]
    whole = spec.causal and num_queries > 1 and first == 0 and num_queries == num_keys
    hides = (spec.causal and num_queries > 1) or _window_hides(spec, num_keys)
    if whole and not spec.has_bias and not _window_hides(spec, num_keys):
        return _attend(q[None], k[None], v[None], spec, None, is_causal=True)[0]
    mask = None
    if hides or spec.has_bias:
        key = ("one", num_queries, num_keys, first, *_mask_key(spec))
        if key not in meta.shared:
            queries = torch.arange(first, first + num_queries, device=q.device)[None]
            meta.shared[key] = _mask(spec, queries, torch.arange(num_keys, device=q.device), q.dtype, None)
        mask = meta.shared[key]
    return _attend(q[None], k[None], v[None], spec, mask)[0]


def _decode_each(
    q: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, meta: AttentionMetadata, spec: AttentionSpec, out: Tensor
) -> None:
    """The first ``num_decodes`` rows of q and ``out``, a sequence at a time.

    At 16 sequences of 100–350 tokens a padded batch took 6.5 times as long: its gathered copy, tens of megabytes a
    layer, is fresh memory at every call.
    """
    mask = _decode_mask(meta, spec, max(meta.kv_lens[: meta.num_decodes]), q.dtype) if spec.has_bias else None
    for i in range(meta.num_decodes):
        kv_len, blocks = meta.kv_lens[i], meta.sequence_blocks[i]
        first = max(0, kv_len - spec.sliding_window) if spec.causal and spec.sliding_window is not None else 0
        k = slots_of(k_cache, blocks, q.dtype)[first:kv_len]
        v = slots_of(v_cache, blocks, q.dtype)[first:kv_len]
        visible = None if mask is None else mask[i : i + 1, :, :, first:kv_len]
        out[i] = _attend(q[None, i : i + 1], k[None], v[None], spec, visible)[0, 0]


def _decode_padded(
    q: Tensor, k_cache: CacheTensor, v_cache: CacheTensor, meta: AttentionMetadata, spec: AttentionSpec, out: Tensor
) -> None:
    """The first ``num_decodes`` rows of q and ``out``, all at once."""
    num = meta.num_decodes
    max_len = max(meta.kv_lens[:num])
    k = slots_of(k_cache, meta.decode_blocks, q.dtype).view(num, -1, *k_cache.shape[2:])[:, :max_len]
    v = slots_of(v_cache, meta.decode_blocks, q.dtype).view(num, -1, *v_cache.shape[2:])[:, :max_len]
    out[:num] = _attend(q[:num, None], k, v, spec, _decode_mask(meta, spec, max_len, q.dtype))[:, 0]


def _decode_mask(meta: AttentionMetadata, spec: AttentionSpec, max_len: int, dtype: torch.dtype) -> Tensor | None:
    """[num_decodes, 1 or num_heads, 1, max_len], None where every key is visible and nothing is added."""
    key = ("decode", *_mask_key(spec))
    if key not in meta.shared:
        meta.shared[key] = _build_decode_mask(meta, spec, max_len, dtype)
    return meta.shared[key]


def _build_decode_mask(meta: AttentionMetadata, spec: AttentionSpec, max_len: int, dtype: torch.dtype) -> Tensor | None:
    kv_lens = meta.kv_lens[: meta.num_decodes]
    if min(kv_lens) == max_len and not spec.has_bias and not _window_hides(spec, max_len):
        return None
    lens = meta.decode_kv_lens
    return _mask(spec, (lens - 1)[:, None], torch.arange(max_len, device=meta.device), dtype, lens)


def _mask_key(spec: AttentionSpec) -> tuple[object, ...]:
    alibi, bias = spec.alibi_slopes, spec.relative_bias
    return (spec.causal, spec.sliding_window, id(alibi), spec.alibi_is_rounded, id(bias.table) if bias else None)


def _window_hides(spec: AttentionSpec, num_keys: int) -> bool:
    return spec.sliding_window is not None and num_keys > spec.sliding_window


def _mask(spec: AttentionSpec, queries: Tensor, keys: Tensor, dtype: torch.dtype, lens: Tensor | None) -> Tensor:
    """Positions of queries [batch, num_queries] and keys [num_keys] → mask [batch, 1 or num_heads, queries, keys].

    Bool, or additive where the layer has a bias. ``lens`` [batch]: keys from there on are padding.
    """
    relative = keys[None, None, :] - queries[:, :, None]
    mask = torch.ones_like(relative, dtype=torch.bool)
    if spec.causal:
        mask &= relative <= 0
    if spec.sliding_window is not None:
        mask &= relative > -spec.sliding_window
    if lens is not None:
        mask &= keys[None, None, :] < lens[:, None, None]
    if not spec.has_bias:
        return mask[:, None]
    bias = reference.bias_of(spec, relative, keys)
    assert bias is not None
    return bias.masked_fill(~mask[:, None], -math.inf).to(dtype)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, mask: Tensor | None, is_causal: bool = False
) -> Tensor:
    """q [batch, queries, heads, d], k and v [batch, keys, kv_heads, d] → [batch, queries, heads, dv]."""
    q, k, v = q.transpose(1, 2), k.to(q.dtype).transpose(1, 2), v.to(q.dtype).transpose(1, 2)
    if spec.soft_cap is not None or spec.sinks is not None:
        return _attend_by_hand(q, k, v, spec, mask, is_causal).transpose(1, 2)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, scale=spec.scale, enable_gqa=spec.num_heads != spec.num_kv_heads
    )
    return out.transpose(1, 2)


def _attend_by_hand(
    q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, mask: Tensor | None, is_causal: bool
) -> Tensor:
    repeats = spec.num_heads // spec.num_kv_heads
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = (q @ k.transpose(-1, -2)).float() * spec.scale
    if spec.soft_cap is not None:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    if is_causal:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    if spec.sinks is not None:
        sinks = spec.sinks.float()[None, :, None, None].expand(scores.shape[0], -1, scores.shape[2], 1)
        weights = torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    return weights.to(v.dtype) @ v
