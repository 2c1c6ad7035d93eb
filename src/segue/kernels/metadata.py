"""What the attention operator must know: of the step (``AttentionMetadata``) and of the layer (``AttentionSpec``)."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from segue.kernels.cpu import _native

__all__ = ["AttentionMetadata", "AttentionSpec", "RelativeBias"]


@dataclass(slots=True, eq=False)
class RelativeBias:
    """T5's bucketed relative position bias (Raffel et al. 2020, section 2.1). ``table`` is set when weights load."""

    table: Tensor  # [num_buckets, num_heads]
    max_distance: int
    bidirectional: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionSpec:
    """One layer's attention. ``None`` means that the family does not have the feature."""

    num_heads: int
    num_kv_heads: int
    scale: float
    causal: bool = True
    sliding_window: int | None = None
    """A query at position p sees keys at positions > p - sliding_window."""
    soft_cap: float | None = None
    """Scores become ``soft_cap * tanh(scores / soft_cap)`` (Gemma 2)."""
    alibi_slopes: Tensor | None = None  # [num_heads] float32
    """``slope * (key position - query position)`` is added to a score."""
    alibi_is_rounded: bool = False
    """Falcon's: ``slope * key position`` instead, computed in bfloat16, then times ``scale``."""
    relative_bias: RelativeBias | None = None
    sinks: Tensor | None = None  # [num_heads]: a logit that takes probability and gives nothing (gpt-oss)

    @property
    def has_bias(self) -> bool:
        return self.alibi_slopes is not None or self.relative_bias is not None


@dataclass(kw_only=True)
class AttentionMetadata:
    """Who attends to what in one step, for packed queries [num_tokens, …].

    Sequence i owns ``query_lens[i]`` consecutive query rows; its keys are the first ``kv_lens[i]`` slots of
    ``block_tables[i]``. When causal, its last query sees all of them. The first ``num_decodes`` sequences have one
    query each. Values derived from these lists are computed once a step and shared by all layers.
    """

    query_lens: Seq[int]
    kv_lens: Seq[int]
    block_tables: Seq[Seq[int]]
    num_decodes: int
    block_size: int
    device: torch.device
    shared: dict[object, Tensor | None] = field(default_factory=dict)
    """Masks and biases by what they depend on; filled by the operator."""
    packed: "_native.PackedSequences | None" = None
    """These lists as the native kernels read them; made by the first that does."""

    @cached_property
    def query_starts(self) -> list[int]:
        starts = [0]
        for query_len in self.query_lens:
            starts.append(starts[-1] + query_len)
        return starts

    @cached_property
    def decode_blocks(self) -> Tensor:
        """[num_decodes * max_blocks] int64: the decodes' blocks; short tables are filled up with block 0."""
        counts = [-(-kv_len // self.block_size) for kv_len in self.kv_lens[: self.num_decodes]]
        width = max(counts)
        ids: list[int] = []
        for table, count in zip(self.block_tables, counts, strict=False):
            ids.extend(table[:count])
            ids.extend([0] * (width - count))
        return torch.tensor(ids, dtype=torch.int64).to(self.device, non_blocking=True)

    @cached_property
    def decode_kv_lens(self) -> Tensor:
        """[num_decodes] int64."""
        lens = torch.tensor(list(self.kv_lens[: self.num_decodes]), dtype=torch.int64)
        return lens.to(self.device, non_blocking=True)

    @cached_property
    def sequence_blocks(self) -> list["slice | Tensor"]:
        """For each sequence its blocks: a slice where they happen to be consecutive (no copy), else ids [n] int64."""
        return [
            self._blocks(table[: -(-kv_len // self.block_size)])
            for table, kv_len in zip(self.block_tables, self.kv_lens, strict=True)
        ]

    def _blocks(self, ids: Seq[int]) -> "slice | Tensor":
        first, count = ids[0], len(ids)
        if ids[-1] - first == count - 1 and all(ids[i] == first + i for i in range(count)):
            return slice(first, first + count)
        return torch.tensor(ids, dtype=torch.int64).to(self.device, non_blocking=True)
