"""The pool of KV blocks: one (k, v) pair a layer, allocated once."""

import math
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from segue.core.errors import ConfigError
from segue.kernels.scaled_cache import CHUNK_SLOTS, CacheTensor, ScaledCache
from segue.layers.attention import KVLayerSpec

__all__ = ["allocate", "bytes_per_block", "cache_dtype"]

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}


def cache_dtype(name: str, computing: torch.dtype, device: torch.device) -> torch.dtype:
    """Of ``--kv-cache-dtype``: ``auto`` is what the model computes in.

    Raises:
        ConfigError: an unknown name, or another than the model's on a GPU, whose attention reads no other.
    """
    if name == "auto":
        return computing
    if name not in DTYPES:
        raise ConfigError(f"unknown kv-cache-dtype {name!r}; use auto or one of {', '.join(DTYPES)}")
    if device.type != "cpu" and DTYPES[name] != computing:
        raise ConfigError(f"`--kv-cache-dtype {name}` is for CPU; on a GPU the cache has the model's dtype")
    return DTYPES[name]


def bytes_per_block(layers: Seq[KVLayerSpec], block_size: int, dtype: torch.dtype) -> int:
    """Of keys, values and, in int8, a scale for each head's key and value."""
    numbers = sum(layer.num_kv_heads * (layer.key_dim + layer.value_dim) for layer in layers)
    scales = 2 * sum(layer.num_kv_heads for layer in layers) if dtype == torch.int8 else 0
    return block_size * (numbers * dtype.itemsize + scales * torch.float32.itemsize)


def allocate(
    layers: Seq[KVLayerSpec],
    num_blocks: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    by_heads: bool = False,
) -> list[tuple[CacheTensor, CacheTensor]]:
    """[num_blocks, block_size, num_kv_heads, dim] each. Zeroed: padding may be read, and 0 · NaN would spoil a sum.

    ``by_heads``: a block's heads lie one after the other in memory. The native attention reads a head's slots and then
    the next head's; where slots lie one after the other that is a jump a slot, at half of the bandwidth. Of keys, a
    dimension's numbers in all slots then lie side by side: a query's product with them needs no transposing, which was
    two thirds of a decode's attention.
    """
    order = (0, 2, 1, 3) if by_heads else (0, 1, 2, 3)  # of the dimensions in memory
    key_order = (0, 2, 3, 1) if by_heads and block_size % CHUNK_SLOTS == 0 else order

    def zeros(dtype: torch.dtype, order: tuple[int, ...], *shape: int) -> Tensor:
        laid = _zeros(tuple(shape[dim] for dim in order), dtype, device)
        return laid.permute([order.index(dim) for dim in range(len(shape))])

    def cache(num_heads: int, dim: int, order: tuple[int, ...]) -> CacheTensor:
        rows = num_blocks, block_size, num_heads
        numbers = zeros(dtype, order, *rows, dim)
        if dtype != torch.int8:
            return numbers
        return ScaledCache(numbers, zeros(torch.float32, tuple(dim for dim in order if dim < 3), *rows))

    return [
        (cache(layer.num_kv_heads, layer.key_dim, key_order), cache(layer.num_kv_heads, layer.value_dim, order))
        for layer in layers
    ]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On CPU from calloc, which ``torch.zeros`` does not use: the pool then takes memory only as it fills."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
