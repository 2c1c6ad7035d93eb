"""Native matrix products beside float64 ones, on every instruction set that the processor has."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

_native = pytest.importorskip("segue.kernels.cpu._native")

from segue.kernels.cpu.linear import linear, pack_float  # noqa: E402

ISAS = ("portable", "avx2", "avx512", "avx512_vnni")
SHAPES = ((1, 1), (3, 5), (31, 17), (33, 64), (64, 200), (100, 193), (257, 385))
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
    "relu6": F.relu6,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_10": lambda x: F.gelu(x).clip(-10, 10),
    "silu": F.silu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
}


@pytest.fixture(params=ISAS, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param not in _native.available_isas():
        pytest.skip("the processor lacks it")
    before = _native.isa()
    _native.use_isa(request.param)
    yield request.param
    _native.use_isa(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    _native.set_num_threads(2)
    yield
    _native.set_num_threads(1)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(got: Tensor, want: Tensor, k: int) -> None:
    """Within what sums of k float32 products differ by, their terms being of size 1."""
    assert got.shape == want.shape
    assert (got.double() - want).abs().max().item() <= 1e-5 * max(1.0, k**0.5), (got, want)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 29, 200])
def test_products(kind: str, n: int, k: int, rows: int) -> None:
    weight, x, bias = numbers(1, n, k).to(DTYPES[kind]), numbers(2, rows, k), numbers(3, n)
    got = linear(x, pack_float(weight, bias))
    assert_close(got, x.double() @ weight.double().T + bias.double(), k)


@pytest.mark.parametrize("kind", DTYPES)
def test_weights_are_rounded_to_nearest_even(kind: str) -> None:
    weight = torch.cat([numbers(1, 40, 16) * 10.0**power for power in (-7, -5, -3, 0, 3)], dim=1)
    weight[0, 0] = float("inf")
    eye = torch.eye(weight.shape[1])
    got = linear(eye, pack_float(weight, kind=kind)).T
    want = weight.to(DTYPES[kind]).float()
    assert got[0].isnan().sum() == weight.shape[1] - 1  # infinity times the other rows' zeros
    assert torch.equal(got[1:], want[1:])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("n", [2, 70, 128])
def test_what_follows_the_product(activation: str, gated: bool, n: int) -> None:
    weight, x, bias = numbers(1, n, 40), numbers(2, 3, 40), numbers(3, n)
    residual = numbers(4, 3, n // 2 if gated else n)
    want = 0.5 * (x.double() @ weight.double().T) + bias.double()
    if gated:
        gate, up = want.chunk(2, dim=1)
        want = ACTIVATIONS[activation](gate) * up
    else:
        want = ACTIVATIONS[activation](want)
    want = want + residual.double()
    packed = pack_float(weight, bias, gated=gated)
    out = residual.clone()
    linear(x, packed, out, activation=activation, residual=out, scale=0.5)
    scale = max(1.0, want.abs().max().item())
    assert ((out.double() - want).abs().max() / scale).item() <= 1e-5


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("k", [7, 500])
def test_a_row_is_the_same_alone_and_among_others_and_with_more_threads(kind: str, k: int, two_threads: None) -> None:
    packed = pack_float(numbers(1, 100, k).to(DTYPES[kind]))
    x = numbers(2, 230, k)
    alone = torch.cat([linear(row[None], packed) for row in x])
    for rows in (2, 3, 7, 12, 14, 65, 230):
        assert torch.equal(linear(x[:rows], packed), alone[:rows]), rows
    _native.set_num_threads(1)
    assert torch.equal(linear(x, packed), alone)


def test_strided_rows() -> None:
    weight, x = numbers(1, 50, 60)[:, :30], numbers(2, 9, 64)
    out = torch.full((9, 80), 7.0)
    linear(x[:, 10:40], pack_float(weight), out[:, 5:55])
    assert_close(out[:, 5:55], x[:, 10:40].double() @ weight.double().T, 30)
    assert (out[:, :5] == 7).all()
    assert (out[:, 55:] == 7).all()


def test_wrong_shapes_are_refused() -> None:
    packed = pack_float(numbers(1, 8, 4))
    with pytest.raises(ValueError, match="rows of"):
        linear(numbers(2, 1, 5), packed)
    with pytest.raises(ValueError, match="rows of"):
        linear(numbers(2, 1, 4), packed, numbers(2, 1, 9))
    with pytest.raises(ValueError, match="bias"):
        pack_float(numbers(1, 8, 4), numbers(1, 4))
    with pytest.raises(ValueError, match="not the shape"):
        pack_float(numbers(1, 7, 4), gated=True)
