"""The native row operators against PyTorch, or float64 where PyTorch is the less exact, on each instruction set."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

_native = pytest.importorskip("segue.kernels.cpu._native")

KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
DIMS = (1, 7, 16, 33, 100, 768)


def _gelu(x: Tensor) -> Tensor:
    """Exact also far below 0, where PyTorch's loses its digits."""
    return x * 0.5 * torch.special.erfc(-x / 2**0.5)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "gelu": _gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_10": lambda x: _gelu(x).clip(-10, 10),
    "silu": F.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
}
"""In the order of the enumeration in linear.h."""


@pytest.fixture(autouse=True, params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = _native.isa(), _native.num_threads()
    _native.use_isa(request.param)
    _native.set_num_threads(3)
    yield request.param
    _native.use_isa(before)
    _native.set_num_threads(threads)


def activated(name: str, x: Tensor, **options: float) -> Tensor:
    out = torch.empty_like(x)
    code = list(ACTIVATIONS).index(name)
    _native.activate(x.data_ptr(), x.stride(0), *x.shape, out.data_ptr(), out.stride(0), code, **options)
    return out


def assert_close(ours: Tensor, expected: Tensor, *, rtol: float = 1e-6, atol: float = 1e-37) -> None:
    torch.testing.assert_close(ours.double(), expected.double(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_their_digits(name: str) -> None:
    """Relative to the exact value also where it is tiny: |x| from 1e-30 to 80, both signs."""
    x = torch.cat([torch.linspace(-9, 9, 40001), torch.logspace(-30, 1.9, 2001), -torch.logspace(-30, 1.9, 2001)])
    ours = activated(name, x[None])[0]
    # An argument's own rounding is multiplied by the function's steepness in far tails.
    rtol = {"gelu_tanh": 2e-5, "quick_gelu": 1e-5}.get(name, 1e-6)
    atol = 2e-13 if name in ("gelu_tanh", "gelu_10") else 1e-37
    assert_close(ours, ACTIVATIONS[name](x.double()), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_extremes(name: str) -> None:
    x = torch.tensor([[0.0, -0.0, 3e38, 1e5, 90.0, float("inf"), float("nan"), -3e38, -1e5, -90.0]])
    ours, expected = activated(name, x), ACTIVATIONS[name](x)
    torch.testing.assert_close(ours, expected, equal_nan=True, rtol=1e-6, atol=1e-36)


@pytest.mark.parametrize("dim", DIMS)
def test_activate_scales_and_multiplies(dim: int) -> None:
    torch.manual_seed(dim)
    wide = torch.randn(5, dim + 3)
    x, up = wide[:, :dim], torch.randn(5, dim)
    out = torch.empty(5, dim)
    _native.activate(
        x.data_ptr(), x.stride(0), 5, dim, out.data_ptr(), dim, 7, scale=0.5, multiplied=up.data_ptr(),
        multiplied_stride=dim,
    )  # fmt: skip
    torch.testing.assert_close(out, F.silu(x * 0.5) * up)
    capped = torch.empty(5, dim)
    _native.activate(x.data_ptr(), x.stride(0), 5, dim, capped.data_ptr(), dim, 0, scale=2.0, soft_cap=1.5)
    torch.testing.assert_close(capped, 1.5 * torch.tanh(2 * x / 1.5))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("centered", [True, False])
def test_norms(dim: int, centered: bool) -> None:
    torch.manual_seed(dim)
    x, weight, bias = torch.randn(7, dim) * 3 + 1, torch.randn(dim), torch.randn(dim)
    out = torch.empty_like(x)
    _native.norm(
        x.data_ptr(), dim, 7, dim, out.data_ptr(), dim, 1e-5, centered, weight=weight.data_ptr(),
        bias=bias.data_ptr() if centered else 0,
    )  # fmt: skip
    exact = x.double()
    if centered:
        expected = F.layer_norm(exact, (dim,), weight.double(), bias.double(), 1e-5)
    else:
        expected = F.rms_norm(exact, (dim,), weight.double(), 1e-5)
    assert_close(out, expected, atol=2e-6)


def test_norm_of_groups_in_place_without_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4, 20)
    expected = F.rms_norm(x, (20,), None, 1e-6)
    _native.norm(x.data_ptr(), 80, 5, 20, x.data_ptr(), 80, 1e-6, False, groups=4)
    torch.testing.assert_close(x, expected)


def test_norm_of_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 100)
    together, alone = torch.empty_like(x), torch.empty_like(x)
    _native.norm(x.data_ptr(), 100, 9, 100, together.data_ptr(), 100, 1e-5, True)
    for i in range(9):
        _native.norm(x[i].data_ptr(), 100, 1, 100, alone[i].data_ptr(), 100, 1e-5, True)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("dim", DIMS)
def test_embed(dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(dim)
    table, ids = torch.randn(50, dim).to(dtype), torch.tensor([3, 47, 0, 3])
    out = torch.ones(4, dim)
    _native.embed(
        ids.data_ptr(), 4, dim, table.data_ptr(), KINDS[dtype], out.data_ptr(), dim, 50, offset=2, scale=1.5,
        accumulate=True,
    )  # fmt: skip
    torch.testing.assert_close(out, table[ids + 2].float() * 1.5 + 1)
    _native.embed(ids.data_ptr(), 4, dim, table.data_ptr(), KINDS[dtype], out.data_ptr(), dim, 50)
    assert torch.equal(out, table[ids].float())


def test_embed_of_every_half() -> None:
    """All 65536 bit patterns of both 16-bit formats, subnormals, infinities and NaN included."""
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        table, out, ids = bits.view(dtype), torch.empty(65536), torch.zeros(1, dtype=torch.int64)
        _native.embed(ids.data_ptr(), 1, 65536, table.data_ptr(), KINDS[dtype], out.data_ptr(), 65536, 1)
        torch.testing.assert_close(out, table.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("pairs", [1, 16, 24, 64])
def test_angles_up_to_a_million(pairs: int) -> None:
    positions = torch.tensor([0, 1, 2, 1000, 131071, 999_983, 1_000_000])
    is_long = torch.tensor([False, True, False, False, True, False, False])
    inverse = 1 / 10000 ** (torch.arange(pairs).float() / pairs)
    longer = inverse / 3
    out = torch.empty(7, 2 * pairs)
    _native.angles(
        positions.data_ptr(), 7, pairs, inverse.data_ptr(), out.data_ptr(), factor=1.25, is_long=is_long.data_ptr(),
        long_inverse=longer.data_ptr(), long_factor=0.75,
    )  # fmt: skip
    angle = (positions[:, None] * torch.where(is_long[:, None], longer, inverse)).double()
    factor = torch.where(is_long, 0.75, 1.25)[:, None]
    assert_close(out, torch.cat((angle.cos() * factor, angle.sin() * factor), dim=1), rtol=2e-7, atol=3e-8)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(("head_dim", "pairs"), [(2, 1), (64, 32), (80, 16), (50, 20)])
def test_rotate(head_dim: int, pairs: int, interleaved: bool) -> None:
    torch.manual_seed(head_dim)
    wide = torch.randn(5, 3 * head_dim + 8)
    x = wide[:, 4 : 4 + 3 * head_dim].unflatten(1, (3, head_dim))
    angle = torch.rand(5, pairs) * 6
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    first, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if interleaved:
        a, b = first[..., 0::2], first[..., 1::2]
        rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = first.chunk(2, dim=-1)
        rotated = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    expected = wide.clone()
    expected[:, 4 : 4 + 3 * head_dim] = torch.cat((rotated, rest), -1).flatten(1)
    both = torch.cat((angle.cos(), angle.sin()), dim=1)
    _native.rotate(x.data_ptr(), wide.stride(0), 5, 3, head_dim, pairs, both.data_ptr(), interleaved)
    torch.testing.assert_close(wide, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim", DIMS)
def test_binary(dim: int) -> None:
    torch.manual_seed(dim)
    a, b, out = torch.randn(4, dim), torch.randn(4, dim), torch.empty(4, dim)
    before = a.clone()
    _native.binary(a.data_ptr(), dim, b.data_ptr(), dim, 4, dim, out.data_ptr(), dim, 0, scale=2.0)
    torch.testing.assert_close(out, (a + b) * 2)
    _native.binary(a.data_ptr(), dim, b.data_ptr(), 0, 4, dim, a.data_ptr(), dim, 1)
    assert torch.equal(a, before * b[0])


def test_gather() -> None:
    torch.manual_seed(0)
    x, indices, out = torch.randn(6, 37), torch.tensor([5, 0, 0, 3]), torch.empty(4, 37)
    _native.gather(x.data_ptr(), 37, indices.data_ptr(), 4, 37, out.data_ptr(), 37)
    assert torch.equal(out, x[indices])
