"""GPTQ against rounding to nearest, on the inputs that it was calibrated with."""

import pytest
import torch
from torch import Tensor

from segue.kernels.quantized import QuantizedWeight
from segue.kernels.rounding import Rounding, rounded
from segue.quantization.calibration import Calibration, GPTQOptions, input_products
from segue.quantization.gptq import GPTQ

K, N = 128, 48


def _inputs(num_tokens: int) -> Tensor:
    """Correlated, of very different sizes."""
    torch.manual_seed(1)
    mixed = torch.randn(num_tokens, 40) @ torch.randn(40, K)
    return (mixed + 0.3 * torch.randn(num_tokens, K)) * torch.linspace(0.05, 3, K)[torch.randperm(K)]


def _quantized(weight: Tensor, x: Tensor, options: GPTQOptions) -> QuantizedWeight:
    leaves = Calibration(input_products(x), options).quantize(weight)
    return GPTQ.from_config(options.config(), None).read("module", leaves)


@pytest.mark.parametrize("group", [32, 64, 128, -1])
@pytest.mark.parametrize("act_order", [False, True])
def test_the_error_of_products_is_smaller(group: int, act_order: bool) -> None:
    x, weight = _inputs(512), torch.randn(N, K)
    nearest = rounded(weight, Rounding(kind="i4w", group=K if group < 0 else group)).dequantize()
    found = _quantized(weight, x, GPTQOptions(group=group, act_order=act_order)).dequantize()
    error = (x @ (found - weight).t()).norm()
    assert error < 0.6 * (x @ (nearest - weight).t()).norm()
    assert (found - weight).norm() > (nearest - weight).norm(), "the error moved to where the inputs are small"


def test_eight_bits() -> None:
    x, weight = _inputs(512), torch.randn(N, K)
    errors = [(x @ (_quantized(weight, x, GPTQOptions(bits=bits)).dequantize() - weight).t()).norm() for bits in (4, 8)]
    assert errors[1] < errors[0] / 8


def test_groups_that_do_not_divide_the_inputs() -> None:
    x, weight = _inputs(256)[:, :80], torch.randn(N, 80)
    for act_order in (False, True):
        found = _quantized(weight, x, GPTQOptions(group=32, act_order=act_order))
        assert found.scales.shape == (N, 3)
        assert (x @ (found.dequantize() - weight).t()).norm() < 0.2 * (x @ weight.t()).norm()


def test_products_come_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _inputs(50)
    expected = x.t() @ x
    monkeypatch.setattr("segue.quantization.calibration.ROWS", 7)
    torch.testing.assert_close(input_products(x), expected, rtol=1e-4, atol=1e-2)


def test_fewer_tokens_than_inputs_and_inputs_that_are_always_zero() -> None:
    """H has not full rank: damping alone makes it invertible. Inputs without any say are rounded to nearest."""
    x, weight = _inputs(16), torch.randn(N, K)
    x[:, 64:] = 0
    found = _quantized(weight, x, GPTQOptions(group=64, damping=0.0)).dequantize()
    nearest = rounded(weight, Rounding(kind="i4w", group=64)).dequantize()
    assert torch.isfinite(found).all()
    assert torch.equal(found[:, 64:], nearest[:, 64:])
    assert (x @ (found - weight).t()).norm() < (x @ (nearest - weight).t()).norm()


def test_inputs_that_are_not_finite() -> None:
    x = _inputs(16)
    x[3, 5] = float("inf")
    with pytest.raises(ValueError, match="not finite"):
        Calibration(input_products(x), GPTQOptions())
