"""The attention layer: writes K/V to the cache, then attends over blocks; and what a step gives to every layer."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from torch import Tensor, nn

from segue.kernels import ops
from segue.kernels.metadata import AttentionMetadata, AttentionSpec
from segue.kernels.scaled_cache import CacheTensor

__all__ = ["Attention", "CrossAttention", "EncoderAttention", "ForwardContext", "KVLayerSpec"]


@dataclass(frozen=True, slots=True)
class KVLayerSpec:
    """What one layer stores for a token."""

    num_kv_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardContext:
    """One step's attention: passed down explicitly, never global."""

    kv_caches: list[tuple[CacheTensor, CacheTensor]]
    """Per layer (k, v), each [num_blocks, block_size, num_kv_heads, dim]."""
    attention: AttentionMetadata
    """Decoder self-attention; in ``encode`` the encoder's own."""
    slot_mapping: Tensor
    """[num_tokens] int64: where this step's K/V go; in ``encode`` the slots of the cross-attention K/V."""
    wanted: Seq[int] | None = None
    """How many of each sequence's last rows anyone reads of what ``forward`` gives; None: all. A model may give no more
    than these."""
    cross_attention: AttentionMetadata | None = None
    is_long: Tensor | None = None
    """[num_tokens] bool where the model has a ``long_prompt_boundary``: the token belongs to a long prompt."""


class Attention(nn.Module):
    """Causal self-attention over the paged cache."""

    def __init__(self, layer: int, spec: AttentionSpec) -> None:
        super().__init__()
        self.layer, self.spec = layer, spec

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext) -> Tensor:
        """q [num_tokens, num_heads, d], k and v [num_tokens, num_kv_heads, d] → [num_tokens, num_heads * d]."""
        k_cache, v_cache = ctx.kv_caches[self.layer]
        ops.write_kv(k, v, k_cache, v_cache, ctx.slot_mapping)
        return ops.paged_attention(q, k_cache, v_cache, ctx.attention, self.spec).flatten(1)


class CrossAttention(nn.Module):
    """Attention of decoder queries over the encoder's K/V, written once by ``store`` and only read after."""

    def __init__(self, layer: int, spec: AttentionSpec) -> None:
        super().__init__()
        assert not spec.causal
        self.layer, self.spec = layer, spec

    def store(self, k: Tensor, v: Tensor, ctx: ForwardContext) -> None:
        """k, v [num_encoder_tokens, num_kv_heads, d]."""
        ops.write_kv(k, v, *ctx.kv_caches[self.layer], ctx.slot_mapping)

    def forward(self, q: Tensor, ctx: ForwardContext) -> Tensor:
        assert ctx.cross_attention is not None
        return ops.paged_attention(q, *ctx.kv_caches[self.layer], ctx.cross_attention, self.spec).flatten(1)


class EncoderAttention(nn.Module):
    """Bidirectional self-attention inside each packed input."""

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        assert not spec.causal
        self.spec = spec

    def forward(self, q: Tensor, k: Tensor, v: Tensor, ctx: ForwardContext) -> Tensor:
        return ops.varlen_attention(q, k, v, ctx.attention, self.spec).flatten(1)
