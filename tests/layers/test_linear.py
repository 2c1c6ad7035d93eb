"""Merged linear layers: parts one by one, merged, transposed, interleaved by groups."""

import pytest
import torch

from segue.core.errors import ConfigError
from segue.layers.linear import Linear, MergedLinear


def test_parts_one_by_one() -> None:
    q, k = torch.randn(4, 3), torch.randn(2, 3)
    layer = MergedLinear(3, (4, 2), bias=True)
    layer.load("weight", k, 1)
    layer.load("weight", q, 0)
    layer.load("bias", torch.arange(4.0), 0)
    layer.load("bias", torch.arange(2.0), 1)
    x = torch.randn(5, 3)
    first, second = layer.split(layer(x))
    torch.testing.assert_close(first, x @ q.T + torch.arange(4.0))
    torch.testing.assert_close(second, x @ k.T + torch.arange(2.0))


def test_groups_hold_a_share_of_every_part() -> None:
    """Two groups of q (2 rows each), k and v (1 row each): rows q0 q1 k0 v0 q2 q3 k1 v1."""
    rows = torch.tensor([[0.0], [1.0], [100.0], [200.0], [2.0], [3.0], [101.0], [201.0]])
    layer = MergedLinear(1, (4, 2, 2), bias=True, groups=2)
    layer.load("weight", rows, None)
    layer.load("bias", rows[:, 0], None)
    expected = torch.tensor([0.0, 1.0, 2.0, 3.0, 100.0, 101.0, 200.0, 201.0])
    assert torch.equal(layer.weight[:, 0], expected)
    assert layer.bias is not None
    assert torch.equal(layer.bias, expected)


def test_transposed() -> None:
    weight = torch.randn(3, 6)  # [in, out]
    layer = MergedLinear(3, (4, 2), bias=False, transposed=True)
    layer.load("weight", weight, None)
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer(x), x @ weight)


@pytest.mark.parametrize("part", [None, 0])
def test_a_wrong_shape_is_told(part: int | None) -> None:
    layer = MergedLinear(3, (4, 2), bias=False, groups=2)
    with pytest.raises(ConfigError, match="expected"):
        layer.load("weight", torch.randn(5, 3), part)
    with pytest.raises(ConfigError, match="expected"):
        Linear(3, 4, bias=False).load("weight", torch.randn(3, 4), None)
