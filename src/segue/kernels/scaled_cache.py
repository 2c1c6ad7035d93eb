"""Keys or values in int8: what a layer of the KV pool is where it is not a tensor of floats."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CHUNK_SLOTS", "CacheTensor", "ScaledCache"]

CHUNK_SLOTS = 16
"""Slots whose keys the native attention reads side by side, by dimension: a multiple of any register's lanes."""


@dataclass(frozen=True, slots=True, eq=False)
class ScaledCache:
    """A token's head stands for ``codes * scale``; the scale is its largest magnitude / 127."""

    codes: Tensor  # [num_blocks, block_size, num_kv_heads, dim] int8
    scales: Tensor  # [num_blocks, block_size, num_kv_heads] float32

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.codes.dtype

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def write(self, rows: Tensor, slots: Tensor) -> None:
        """rows [num_tokens, num_kv_heads, dim] floats → the slots ``slots`` [num_tokens] int64."""
        scales = rows.float().abs().amax(-1) / 127
        inverse = torch.where(scales > 0, 1 / scales, scales)  # not finite stays so: whoever reads it must notice
        codes = (rows.float() * inverse[..., None]).round().nan_to_num(0.0).to(torch.int8)
        places = slots // self.shape[1], slots % self.shape[1]
        self.codes.index_put_(places, codes)
        self.scales.index_put_(places, scales)

    def widened(self, blocks: slice | Tensor) -> Tensor:
        """[chosen blocks, block_size, num_kv_heads, dim] float32."""
        return self.codes[blocks] * self.scales[blocks][..., None]

    def wipe(self, blocks: Tensor) -> None:
        """Replace what is not finite in ``blocks`` [n] int64 by zeros."""
        self.scales[blocks] = self.scales[blocks].nan_to_num(0.0, 0.0, 0.0)


CacheTensor = Tensor | ScaledCache
"""Keys or values of one layer: [num_blocks, block_size, num_kv_heads, dim]."""
