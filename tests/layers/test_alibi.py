"""ALiBi's slopes."""

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from segue.layers.alibi import alibi_slopes


@pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 6, 8, 12, 16, 71, 112])
def test_slopes_are_blooms(num_heads: int) -> None:
    """For numbers of heads that are no power of two as well."""
    theirs = build_alibi_tensor(torch.ones(1, 2, dtype=torch.int64), num_heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(alibi_slopes(num_heads), theirs, atol=0, rtol=1e-6)
