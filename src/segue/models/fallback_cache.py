"""``transformers`` caches whose keys and values lie in our blocks."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from segue.kernels import ops
from segue.kernels.metadata import AttentionMetadata
from segue.kernels.plain import slots_of
from segue.kernels.scaled_cache import CacheTensor
from segue.layers.attention import ForwardContext, KVLayerSpec

__all__ = ["BlockCache", "RecordingCache", "cross_cache"]


class _BlockLayer(CacheLayerMixin):
    """One layer of one sequence: new K/V are written to their slots, all of the sequence's are given back."""

    is_compileable = False
    is_sliding = False

    def __init__(self, ctx: ForwardContext, sequence: int, layer: int) -> None:
        super().__init__()
        self.ctx, self.sequence, self.layer = ctx, sequence, layer
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass  # the blocks exist

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        k_cache, v_cache = self.ctx.kv_caches[self.layer]
        starts = self.ctx.attention.query_starts
        slots = self.ctx.slot_mapping[starts[self.sequence] : starts[self.sequence + 1]]
        ops.write_kv(key_states[0].transpose(0, 1), value_states[0].transpose(0, 1), k_cache, v_cache, slots)
        return (
            _gather(k_cache, self.ctx.attention, self.sequence, key_states.dtype),
            _gather(v_cache, self.ctx.attention, self.sequence, value_states.dtype),
        )

    def get_seq_length(self) -> int:
        """Before this step's tokens."""
        meta = self.ctx.attention
        return meta.kv_lens[self.sequence] - meta.query_lens[self.sequence]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + int(query_length), 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1


class BlockCache(Cache):
    """One sequence's self-attention."""

    def __init__(self, ctx: ForwardContext, sequence: int) -> None:
        super().__init__(layers=[_BlockLayer(ctx, sequence, layer) for layer in range(len(ctx.kv_caches))])


class _RecordingLayer(DynamicLayer):
    pass


class RecordingCache(Cache):
    """A plain cache that says what each layer stores; with ``keep`` it also hands the states out."""

    def __init__(self, *, keep: bool = False) -> None:
        super().__init__(layer_class_to_replicate=_RecordingLayer)
        self.keep = keep
        self.seen: dict[int, KVLayerSpec] = {}
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.seen[layer_idx] = KVLayerSpec(key_states.shape[1], key_states.shape[3], value_states.shape[3])
        if self.keep:
            self.kept[layer_idx] = (key_states, value_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def cross_cache(ctx: ForwardContext, sequence: int, dtype: torch.dtype) -> Cache:
    """One sequence's cross-attention, filled from the blocks: transformers then does not project it again."""
    meta = ctx.cross_attention
    assert meta is not None
    cache = RecordingCache()
    for layer, (k_cache, v_cache) in enumerate(ctx.kv_caches):
        cache.update(_gather(k_cache, meta, sequence, dtype), _gather(v_cache, meta, sequence, dtype), layer)
    return cache


def _gather(cache: CacheTensor, meta: AttentionMetadata, sequence: int, dtype: torch.dtype) -> Tensor:
    """[1, num_kv_heads, kv_len, dim]."""
    rows = slots_of(cache, meta.sequence_blocks[sequence], dtype)[: meta.kv_lens[sequence]]
    return rows.transpose(0, 1)[None]
