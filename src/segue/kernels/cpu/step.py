"""A step's lists to the arrays that the kernels read, without a Python number a token."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from segue.kernels.cpu import _native

__all__ = ["pack_tokens"]


def pack_tokens(token_ids: Seq[Seq[int]], starts: Seq[int], block_tables: Seq[Seq[int]], block_size: int) -> Tensor:
    """[3, num_tokens] int64: ids, positions and slots of sequences one after the other.

    ``token_ids[i]`` has positions from ``starts[i]`` on. Raises ``ValueError`` where ``block_tables[i]`` ends before.
    """
    num_tokens = sum(map(len, token_ids))
    packed = torch.empty(3, num_tokens, dtype=torch.int64)
    _native.pack_tokens(token_ids, starts, block_tables, block_size, packed.data_ptr(), num_tokens)
    return packed
