"""Bounds that benchmarks are set beside."""

import pytest
import torch

_native = pytest.importorskip("segue.kernels.cpu._native")

from segue.kernels.cpu.linear import pack_float  # noqa: E402


def test_a_read_of_weights_is_a_read_of_all_of_them() -> None:
    layer = pack_float(torch.ones(1024, 1024))
    once = min(_native.measure_read_seconds([layer]) for _ in range(5))
    often = min(_native.measure_read_seconds([layer] * 64) for _ in range(5))
    assert 0 < 8 * once < often
