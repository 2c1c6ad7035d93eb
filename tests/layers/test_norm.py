"""RMSNorm with Gemma's offset."""

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from segue.layers.norm import RMSNorm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offset_is_added_in_float32(dtype: torch.dtype) -> None:
    """In bfloat16 1 + weight would lose what a weight below 2^-8 says."""
    torch.manual_seed(0)
    weight = (torch.randn(12) * 0.003).to(dtype)
    theirs = GemmaRMSNorm(12, eps=1e-5)
    theirs.weight.data = weight
    ours = RMSNorm(12, 1e-5, offset=1.0)
    ours.load("weight", weight, None)
    ours.finish_loading()
    x = torch.randn(7, 12).to(dtype)
    assert ours(x).dtype == dtype
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=0)
