"""Every operator in its plainest form: slow, obvious, the measure for all others. Tests only."""

import math

import torch
from torch import Tensor

from segue.kernels.metadata import AttentionMetadata, AttentionSpec

__all__ = ["attention", "paged_attention", "relative_buckets"]


def relative_buckets(relative: Tensor, num_buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """T5's bucket of each ``key position - query position`` (any shape, int64).

    Half of a direction's buckets are exact distances, the other half grow logarithmically up to ``max_distance``.
    """
    buckets = torch.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        buckets = buckets + (relative > 0).long() * num_buckets
        distance = relative.abs()
    else:
        distance = (-relative).clamp(min=0)
    exact = num_buckets // 2
    log_ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (log_ratio * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
    return buckets + torch.where(distance < exact, distance, far)


def bias_of(spec: AttentionSpec, relative: Tensor, key_positions: Tensor) -> Tensor | None:
    """``key position - query position`` [..., queries, keys] → bias [..., num_heads, queries, keys] float32.

    None when the layer has no position bias. ``key_positions`` [keys] int64.
    """
    if spec.alibi_slopes is not None:
        if spec.alibi_is_rounded:
            rounded = spec.alibi_slopes.bfloat16()[:, None, None] * key_positions
            return (rounded.float() * spec.scale).expand(*relative.shape[:-2], -1, relative.shape[-2], -1)
        return spec.alibi_slopes.float()[:, None, None] * relative[..., None, :, :]
    if spec.relative_bias is not None:
        bias = spec.relative_bias
        buckets = relative_buckets(relative, bias.table.shape[0], bias.max_distance, bias.bidirectional)
        return bias.table[buckets].float().movedim(-1, -3)
    return None


def visible(spec: AttentionSpec, query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """[num_queries, num_keys] bool: which keys a query may see."""
    relative = key_positions[None, :] - query_positions[:, None]
    mask = torch.ones_like(relative, dtype=torch.bool)
    if spec.causal:
        mask &= relative <= 0
    if spec.sliding_window is not None:
        mask &= relative > -spec.sliding_window
    return mask


def attention(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, first_query_position: int) -> Tensor:
    """One sequence: q [queries, num_heads, d], k and v [keys, num_kv_heads, d] → [queries, num_heads, dv]."""
    query_positions = torch.arange(q.shape[0], device=q.device) + first_query_position
    key_positions = torch.arange(k.shape[0], device=q.device)
    repeats = spec.num_heads // spec.num_kv_heads
    k = k.repeat_interleave(repeats, dim=1).float()
    v = v.repeat_interleave(repeats, dim=1).float()
    scores = torch.einsum("qhd,khd->hqk", q.float(), k) * spec.scale
    if spec.soft_cap is not None:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    bias = bias_of(spec, key_positions[None, :] - query_positions[:, None], key_positions)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~visible(spec, query_positions, key_positions), -math.inf)
    if spec.sinks is not None:
        sink = spec.sinks.float()[:, None, None].expand(-1, scores.shape[1], 1)
        weights = torch.softmax(torch.cat([scores, sink], dim=-1), dim=-1)[..., :-1]
    else:
        weights = torch.softmax(scores, dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v).to(q.dtype)


def paged_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, meta: AttentionMetadata, spec: AttentionSpec
) -> Tensor:
    """As ``ops.paged_attention``, one sequence and one key at a time."""
    outputs = []
    for i, (query_len, kv_len) in enumerate(zip(meta.query_lens, meta.kv_lens, strict=True)):
        start = meta.query_starts[i]
        slots = [(meta.block_tables[i][p // meta.block_size], p % meta.block_size) for p in range(kv_len)]
        k = torch.stack([k_cache[block, offset] for block, offset in slots])
        v = torch.stack([v_cache[block, offset] for block, offset in slots])
        outputs.append(attention(q[start : start + query_len], k, v, spec, kv_len - query_len))
    return torch.cat(outputs)
