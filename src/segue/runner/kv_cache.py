"""The pool of KV blocks: one (k, v) pair of tensors a layer, allocated once."""

import math
from collections.abc import Sequence as Seq

import numpy as np
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

    Zeroed: padding may be read, and 0 · NaN would spoil a sum.
    """
    return [
        (
            _zeros((num_blocks, block_size, layer.num_kv_heads, layer.key_dim), dtype, device),
            _zeros((num_blocks, block_size, layer.num_kv_heads, layer.value_dim), dtype, device),
        )
        for layer in layers
    ]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On CPU from calloc, which ``torch.zeros`` does not use: the pool then takes memory only as it fills."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
