"""The pool of KV blocks: one (k, v) pair of tensors a layer, allocated once."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from segue.layers.attention import KVLayerSpec

__all__ = ["allocate", "bytes_per_block"]


def bytes_per_block(layers: Seq[KVLayerSpec], block_size: int, dtype: torch.dtype) -> int:
    numbers = sum(layer.num_kv_heads * (layer.key_dim + layer.value_dim) for layer in layers)
    return numbers * block_size * dtype.itemsize


def allocate(
    layers: Seq[KVLayerSpec], num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """[num_blocks, block_size, num_kv_heads, dim] each.

    Zeroed: padding may be read, and 0 · NaN would spoil a sum. On CPU the kernel hands zeroed pages out when they are
    first written, so that the pool costs memory only as it fills.
    """
    return [
        (
            torch.zeros(num_blocks, block_size, layer.num_kv_heads, layer.key_dim, dtype=dtype, device=device),
            torch.zeros(num_blocks, block_size, layer.num_kv_heads, layer.value_dim, dtype=dtype, device=device),
        )
        for layer in layers
    ]
