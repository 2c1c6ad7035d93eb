"""Causal attention for training on a CPU, compiled together with the model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

NAME = "training_blocks"
_BLOCK = 128


def blocks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of [rows, heads, length, width] by blocks of queries, each with the keys up to its end.

    Returns [rows, length, heads, width]. Measured with torch.compile on Zen 5, bfloat16, 16 rows of 384: forward and
    backward take 39 ms, against 97 ms for torch's scaled_dot_product_attention.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    length = query.shape[2]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    parts = []
    for at in range(0, length, _BLOCK):
        end = min(at + _BLOCK, length)
        scores = (query[:, :, at:end] @ key[:, :, :end].transpose(-1, -2)).float() * scaling
        shares = scores.masked_fill(hidden[at:end, :end], float("-inf")).softmax(-1).to(value.dtype)
        parts.append(shares @ value[:, :, :end])
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def register() -> str:
    """Make the attention known to transformers; returns the name to set."""
    AttentionInterface.register(NAME, blocks)
    return NAME
