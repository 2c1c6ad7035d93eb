"""Codes in int32 words, against a packer that works code by code."""

import pytest
import torch
from packed_checkpoints import words

from segue.core.errors import ConfigError
from segue.quantization.int32 import order_by_group, pack, unpack


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [1, 7, 8, 24])
def test_pack_and_unpack(bits: int, columns: int) -> None:
    codes = torch.randint(0, 2**bits, (5, columns), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert torch.equal(packed, words(codes, bits))
    assert torch.equal(unpack(packed, bits, 1)[:, :columns], codes)
    assert torch.equal(unpack(packed.t().contiguous(), bits, 0)[:columns], codes.t())


def test_order_by_group() -> None:
    assert order_by_group("m", torch.tensor([0, 0, 1, 1]), 2) is None
    order = order_by_group("m", torch.tensor([1, 0, 1, 0]), 2)
    assert order is not None
    assert order.tolist() == [1, 3, 0, 2]
    with pytest.raises(ConfigError, match="m: g_idx"):
        order_by_group("m", torch.tensor([0, 0, 0, 1]), 2)
