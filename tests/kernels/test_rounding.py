"""Rounding of float weights: errors as small as the number of codes allows, whatever the dtype and the block."""

import pytest
import torch

from segue.kernels.rounding import FP4, NF4, QUICK_RANGES, Rounding, rounded

ALL = {
    "int8": (Rounding(kind="i8"), 0.009),
    "int4 by 32": (Rounding(kind="i4", group=32), 0.083),
    "int4 by 64": (Rounding(kind="i4", group=64), 0.092),
    "int4 by 128": (Rounding(kind="i4w", group=128), 0.099),
    "nf4": (Rounding(kind="i4w", group=64, table=NF4), 0.094),
    "fp4": (Rounding(kind="i4w", group=64, table=FP4), 0.125),
}
"""What to round to, and the relative error that normal weights may get (round-to-nearest of int4 by 128: 0.11)."""


def _weight(n: int = 96, k: int = 256) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(0))


def _error(weight: torch.Tensor, to: Rounding, **options: object) -> float:
    difference = rounded(weight, to, **options).dequantize() - weight.float()  # type: ignore[arg-type]
    return float((difference.square().mean() / weight.float().square().mean()).sqrt())


@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error(name: str, dtype: torch.dtype) -> None:
    to, most = ALL[name]
    assert most * 0.5 < _error(_weight().to(dtype), to) < most


def test_more_ranges_give_less_error() -> None:
    to = Rounding(kind="i4", group=128)
    errors = [_error(_weight(), to, ranges=ranges) for ranges in ((1.0,), QUICK_RANGES)]
    assert errors[1] < errors[0]
    assert _error(_weight(), to) <= errors[1]


@pytest.mark.parametrize("name", list(ALL))
def test_blocks_of_outputs_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    to, _ = ALL[name]
    whole = rounded(_weight(), to)
    monkeypatch.setattr("segue.kernels.rounding.BLOCK_WEIGHTS", 256 * 7)
    in_blocks = rounded(_weight(), to)
    assert torch.equal(whole.q, in_blocks.q)
    assert torch.equal(whole.scales, in_blocks.scales)


@pytest.mark.parametrize("name", list(ALL))
def test_zeros_stay_zeros(name: str) -> None:
    weight = _weight(4, 256)
    weight[1] = 0
    weight[2, :128] = 0
    result = rounded(weight, ALL[name][0]).dequantize()
    assert torch.equal(result[1], torch.zeros(256))
    assert torch.equal(result[2, :128], torch.zeros(128))


def test_what_has_few_values_is_exact() -> None:
    """Codes -8…7 times a power of two come back as they are: the whole range of codes is used."""
    codes = torch.randint(-8, 8, (5, 128), generator=torch.Generator().manual_seed(1)).float()
    codes[:, ::32] = -8
    assert torch.equal(rounded(codes / 16, Rounding(kind="i4", group=32)).dequantize(), codes / 16)
    assert torch.equal(rounded(-codes / 16, Rounding(kind="i4", group=32)).dequantize(), -codes / 16)


def test_scales_fit_what_a_file_keeps_them_in() -> None:
    result = rounded(_weight(), Rounding(kind="i8"), scale_dtype=torch.bfloat16)
    assert torch.equal(result.scales, result.scales.bfloat16().float())
    assert torch.equal(
        rounded(_weight(), ALL["int4 by 64"][0]).scales.half().float(), rounded(_weight(), ALL["int4 by 64"][0]).scales
    )
