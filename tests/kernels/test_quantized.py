"""Weights in few bits: what their codes stand for, one element at a time, and the plain product."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segue.kernels import ops
from segue.kernels.quantized import QuantizedWeight, concatenated, linear, pack_nibbles, unpack_nibbles

N, K, GROUP = 5, 12, 4


def _scales() -> Tensor:
    return torch.rand(N, K // GROUP) + 0.1


def _by_hand(codes: Tensor, value: Callable[[int, int, int], float], permutation: list[int] | None) -> Tensor:
    weight = torch.zeros(N, K)
    for output in range(N):
        for column in range(K):
            target = column if permutation is None else permutation[column]
            weight[output, target] = value(int(codes[output, column]), output, column // GROUP)
    return weight


@pytest.mark.parametrize("permuted", [False, True])
def test_four_bits_with_zeros(permuted: bool) -> None:
    codes = torch.randint(0, 16, (N, K), dtype=torch.uint8)
    scales, zeros = _scales(), torch.randint(0, 16, (N, K // GROUP)).float()
    permutation = torch.randperm(K) if permuted else None
    weight = QuantizedWeight(
        kind="i4w",
        q=pack_nibbles(codes),
        scales=scales,
        zeros=zeros,
        group=GROUP,
        input_permutation=permutation,
        in_features=K,
    )
    expected = _by_hand(
        codes,
        lambda code, output, group: float((code - zeros[output, group]) * scales[output, group]),
        None if permutation is None else permutation.tolist(),
    )
    torch.testing.assert_close(weight.dequantize(), expected)
    x, bias = torch.randn(3, K), torch.randn(N)
    torch.testing.assert_close(linear(x, weight, bias), x @ expected.T + bias)


def test_four_bits_without_zeros_are_centred_on_8() -> None:
    codes = torch.arange(N * K, dtype=torch.uint8).reshape(N, K) % 16
    weight = QuantizedWeight(kind="i4", q=pack_nibbles(codes), scales=_scales(), group=GROUP, in_features=K)
    expected = _by_hand(codes, lambda code, o, g: float((code - 8) * weight.scales[o, g]), None)
    torch.testing.assert_close(weight.dequantize(), expected)


def test_a_table() -> None:
    codes = torch.randint(0, 16, (N, K), dtype=torch.uint8)
    table = torch.randn(16)
    weight = QuantizedWeight(
        kind="i4w", q=pack_nibbles(codes), scales=_scales(), group=GROUP, table=table, in_features=K
    )
    expected = _by_hand(codes, lambda code, o, g: float(table[code] * weight.scales[o, g]), None)
    torch.testing.assert_close(weight.dequantize(), expected)


def test_eight_bits_by_output() -> None:
    codes = torch.randint(-128, 128, (N, K), dtype=torch.int8)
    scales = torch.rand(N)
    weight = QuantizedWeight(kind="i8", q=codes, scales=scales, in_features=K)
    torch.testing.assert_close(weight.dequantize(), codes.float() * scales[:, None])


def test_a_last_group_may_be_shorter() -> None:
    codes = torch.randint(0, 16, (N, 7), dtype=torch.uint8)
    scales = torch.rand(N, 2)
    weight = QuantizedWeight(kind="i4", q=pack_nibbles(codes), scales=scales, group=4, in_features=7)
    expected = (codes.float() - 8) * torch.cat([scales[:, :1].expand(N, 4), scales[:, 1:].expand(N, 3)], dim=1)
    torch.testing.assert_close(weight.dequantize(), expected)


@pytest.mark.parametrize("k", [1, 2, 7, 16])
def test_nibbles_come_back(k: int) -> None:
    codes = torch.randint(0, 16, (3, k), dtype=torch.uint8)
    assert torch.equal(unpack_nibbles(pack_nibbles(codes), k), codes)


def test_products_in_blocks_are_the_whole_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.kernels.quantized.BLOCK_BYTES", 2 * 4 * K)  # two outputs at a time, of five
    weight = QuantizedWeight(
        kind="i8w", q=torch.randint(-9, 9, (N, K)).to(torch.int8), scales=_scales()[:, 0], in_features=K
    )
    x, bias = torch.randn(2, 3, K), torch.randn(N)
    torch.testing.assert_close(linear(x, weight, bias), x @ weight.dequantize().T + bias)


def test_parts_join_only_where_one_product_can_read_them() -> None:
    def part(kind: str, group: int, permutation: Tensor | None = None) -> QuantizedWeight:
        return QuantizedWeight(
            kind=kind,  # type: ignore[arg-type]
            q=pack_nibbles(torch.randint(0, 16, (N, K), dtype=torch.uint8)),
            scales=torch.rand(N, K // group),
            group=group,
            input_permutation=permutation,
            in_features=K,
        )

    order = torch.randperm(K)
    parts = [part("i4", 4, order), part("i4", 4, order.clone())]
    joined = concatenated(parts)
    assert joined is not None
    torch.testing.assert_close(joined.dequantize(), torch.cat([p.dequantize() for p in parts]))
    assert concatenated([part("i4", 4), part("i4", 4, order)]) is None
    assert concatenated([part("i4", 4), part("i4", 6)]) is None
    assert concatenated([part("i4", 4), part("i4w", 4)]) is None


@pytest.mark.parametrize("kind", ["i8", "i8w"])
def test_the_operator_multiplies_within_the_rounding_of_activations(kind: str) -> None:
    """Rounding x to 8 bits moves a product of k inputs by at most max|x| / 254 · Σ|w|."""
    weight = QuantizedWeight(
        kind=kind,  # type: ignore[arg-type]
        q=torch.randint(-127, 128, (N, K)).to(torch.int8),
        scales=torch.rand(N) / 127,
        in_features=K,
    )
    x = torch.randn(3, K)
    exact = x @ weight.dequantize().T
    bound = x.abs().amax(1, keepdim=True) / 254 * weight.dequantize().abs().sum(1) + 1e-4
    assert ((ops.linear(x, ops.pack(weight), None) - exact).abs() <= bound).all()
