"""Native matrix products beside float64 ones, on every instruction set that the processor has."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

_native = pytest.importorskip("segue.kernels.cpu._native")

from segue.kernels.cpu.linear import FP4, NF4, linear, pack_codes, pack_float, quantize  # noqa: E402

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
@pytest.mark.parametrize("rows", [1, 2, 5, 12, 13, 16, 29, 32, 200])
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
    for rows in (2, 3, 7, 12, 14, 16, 31, 65, 230):
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


def rounded_rows(x: Tensor, group: int) -> Tensor:
    """Activations as the kernels round them, [rows, k] float64: codes * scale of each row and group."""
    parts = []
    for part in x.split(group or x.shape[1], dim=1):
        most = part.abs().amax(dim=1, keepdim=True)
        inverse = torch.where(most > 0, 127.0 / most, 0.0)
        parts.append((part.double() * inverse.double()).round() * (most / 127.0).double())
    return torch.cat(parts, dim=1)


def per_input(values: Tensor, group: int, k: int) -> Tensor:
    """[n, groups] → [n, k]."""
    return values.double().repeat_interleave(group or k, dim=1)[:, :k]


def random_codes(kind: str, n: int, k: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    if kind in ("i8", "i8w"):
        return torch.randint(-128, 128, (n, k), dtype=torch.int8, generator=generator)
    return torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=generator)


def middle(kind: str) -> int:
    return 0 if kind in ("i8", "i8w") else 8


def assert_sums(got: Tensor, x: Tensor, weight: Tensor) -> None:
    """Equal to x · weightᵀ but for float32's rounding of the terms."""
    bound = 1e-6 * (x.abs().max() * weight.abs().max() * weight.shape[1] ** 0.5).item()
    assert (got.double() - x @ weight.T).abs().max().item() <= max(bound, 1e-30) * 4


@pytest.mark.parametrize(
    ("kind", "has_zeros"),
    [("i8", False), ("i8w", False), ("i4", False), ("i4", True), ("i4w", False), ("i4w", True)],
)
@pytest.mark.parametrize(
    ("n", "k", "group"), [(1, 1, 0), (3, 5, 0), (33, 64, 32), (70, 200, 64), (64, 385, 128), (97, 45, 24)]
)
@pytest.mark.parametrize("rows", [1, 2, 5, 13, 200])
def test_products_with_integers(kind: str, n: int, k: int, group: int, rows: int, has_zeros: bool) -> None:
    codes, x = random_codes(kind, n, k), numbers(2, rows, k)
    groups = -(-k // group) if group else 1
    scales = numbers(3, n, groups).abs() + 0.1
    zeros = random_codes("i4", n, groups) if has_zeros else None
    points = torch.full((n, groups), middle(kind)) if zeros is None else zeros
    weight = (codes.double() - per_input(points, group, k)) * per_input(scales, group, k)
    packed = pack_codes(codes, scales, kind, zeros=zeros, group=group)
    got = linear(x, packed)
    assert_sums(got, x.double() if kind.endswith("w") else rounded_rows(x, group), weight)


@pytest.mark.parametrize("kind", ["i8", "i8w", "i4", "i4w"])
@pytest.mark.parametrize(("group", "k"), [(0, 1000), (32, 256)])
def test_integer_sums_are_exact(kind: str, group: int, k: int) -> None:
    """Extremes of all operands: saturating 16-bit sums would show."""
    rows, n = 14, 66
    x = torch.full((rows, k), 127.0)
    x[1] = -127.0
    x[2, ::2] = -127.0
    x[3:] = torch.randint(-127, 128, (rows - 3, k), generator=torch.Generator().manual_seed(1)).float()
    x[:, :: group or k] = 127.0
    codes = random_codes(kind, n, k)
    codes[0], codes[1] = codes.min(), codes.max()
    weight = codes.double() - middle(kind)
    packed = pack_codes(codes, torch.ones(n, -(-k // group) if group else 1), kind, group=group)
    assert torch.equal(linear(x, packed), (x.double() @ weight.T).float())


@pytest.mark.parametrize("kind", ["i8", "i8w", "i4", "i4w"])
@pytest.mark.parametrize("k", [7, 500])
@pytest.mark.parametrize("group", [0, 32])
def test_a_row_of_integers_is_the_same_alone_and_among_others(kind: str, k: int, group: int, two_threads: None) -> None:
    packed = quantize(numbers(1, 100, k), kind, group=group, has_zeros=kind == "i4")
    x = numbers(2, 230, k)
    alone = torch.cat([linear(row[None], packed) for row in x])
    # Threads share out rows, groups or inputs: by how many of each there are.
    for threads in (2, 3, 1):
        _native.set_num_threads(threads)
        for rows in (2, 3, 7, 12, 14, 30, 65, 230):
            assert torch.equal(linear(x[:rows], packed), alone[:rows]), (threads, rows)


def decoded(packed: object, k: int) -> Tensor:
    """The weight [n, k] that a packed one with float activations stands for."""
    return linear(torch.eye(k), packed).T  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize(
    ("kind", "group", "has_zeros", "table", "error"),
    [
        ("i8w", 0, False, None, 0.012),
        ("i8w", 64, False, None, 0.008),
        ("i4w", 0, False, None, 0.16),
        ("i4w", 32, False, None, 0.10),
        ("i4w", 32, True, None, 0.09),
        ("i4w", 64, False, NF4, 0.10),
        ("i4w", 64, False, FP4, 0.14),
    ],
)
def test_rounding_weights(
    kind: str, group: int, has_zeros: bool, table: tuple[float, ...] | None, error: float, dtype: torch.dtype
) -> None:
    """``error``: root mean square, beside normal weights' of 1."""
    weight = numbers(1, 70, 200).to(dtype)
    weight[3] = 0
    weight[4, :10] *= 1e-6
    got = decoded(quantize(weight, kind, group=group, has_zeros=has_zeros, table=table), 200)  # type: ignore[arg-type]
    assert (got - weight.float()).pow(2).mean().sqrt().item() <= error
    assert (got[3] == 0).all()


@pytest.mark.parametrize("shape", ["normal", "uniform", "heavy-tailed", "with outliers"])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_four_bits_leave_no_more_error_than_twelve_scales_tried(group: int, shape: str) -> None:
    weight = numbers(1, 256, 4 * group)
    if shape == "uniform":
        weight = torch.erf(weight / 2**0.5)
    elif shape == "heavy-tailed":
        weight = weight * numbers(2, 256, 4 * group).abs()
    elif shape == "with outliers":
        weight[:, ::group] *= 6
    grouped = weight.view(-1, group)
    extremes = grouped.gather(1, grouped.abs().argmax(1, keepdim=True))
    least = torch.stack([_error(grouped, extremes / -8 * (1.1 - 0.035 * i)) for i in range(12)]).amin(0).sum()
    got = decoded(quantize(weight, "i4w", group=group), 4 * group)
    assert (got - weight).square().sum().item() <= least.item()


def _error(grouped: Tensor, scales: Tensor) -> Tensor:
    """Squared, of each row rounded with its scale."""
    scales = scales.half().float()
    return ((grouped / scales).round().clamp(-8, 7) * scales - grouped).square().sum(1)


@pytest.mark.parametrize("table", [None, NF4, FP4])
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_weights_that_four_bits_hold_come_back(dtype: torch.dtype, table: tuple[float, ...] | None) -> None:
    """In whole panels and a part of one, in a group that is cut off, in a word that is."""
    codes = random_codes("i4w", 70, 100).long()
    codes[:, ::24] = 0 if table is None else table.index(1.0)  # each group has its extreme
    scales = per_input(2.0 ** torch.arange(-5, 5).repeat(35).view(70, 5), 24, 100)
    weight = (torch.tensor(table or range(-8, 8))[codes] * scales).to(dtype)
    weight[7] = 0
    got = decoded(quantize(weight, "i4w", group=24, table=table), 100)
    torch.testing.assert_close(got, weight.float(), rtol=torch.finfo(dtype).eps if table else 0, atol=0)


@pytest.mark.parametrize("kind", ["i8", "i8w", "i4", "i4w"])
def test_integers_are_what_their_float_kind_decodes(kind: str) -> None:
    """The same weights are chosen whichever activations they meet."""
    weight, x = numbers(1, 70, 200), numbers(2, 5, 200)
    packed = quantize(weight, kind, group=40)  # type: ignore[arg-type]
    same = decoded(quantize(weight, "i8w" if "8" in kind else "i4w", group=40), 200)
    assert_sums(linear(x, packed), x.double() if kind.endswith("w") else rounded_rows(x, 40), same.double())


def test_a_table_is_read_by_every_code() -> None:
    codes = torch.arange(16, dtype=torch.uint8).repeat(40, 5)
    table = tuple(float(value) for value in range(10, 26))
    got = decoded(pack_codes(codes, torch.ones(40, 1), "i4w", table=table), 80)
    assert torch.equal(got, codes.float() + 10)


@pytest.mark.parametrize("kind", ["i8", "i8w", "i4", "i4w"])
@pytest.mark.parametrize("gated", [False, True])
def test_integers_permuted_and_gated_with_all_that_follows(kind: str, gated: bool) -> None:
    n, k, rows = 90, 96, 4
    codes, x, bias = random_codes(kind, n, k), numbers(2, rows, k), numbers(3, n)
    scales, order = numbers(4, n, 3) * 0.01, torch.randperm(k, generator=torch.Generator().manual_seed(5))
    packed = pack_codes(codes, scales, kind, group=32, permutation=order, bias=bias, gated=gated)
    shuffled = x[:, order]
    inputs = shuffled.double() if kind.endswith("w") else rounded_rows(shuffled, 32)
    want = inputs @ ((codes.double() - middle(kind)) * per_input(scales, 32, k)).T * 0.5 + bias.double()
    want = F.silu(want[:, : n // 2]) * want[:, n // 2 :] if gated else F.silu(want)
    got = linear(x, packed, activation="silu", scale=0.5)
    assert ((got.double() - want).abs().max() / want.abs().max()).item() <= 1e-5


def test_rows_of_zeros() -> None:
    packed = quantize(numbers(1, 40, 64), "i8")
    x = numbers(2, 3, 64)
    x[1] = 0
    got = linear(x, packed)
    assert (got[1] == 0).all()
    assert (got[0] != 0).any()


def test_wrong_integers_are_refused() -> None:
    codes, scales = random_codes("i4", 8, 32), torch.ones(8, 1)
    with pytest.raises(ValueError, match="codes of i8"):
        pack_codes(codes, scales, "i8")
    with pytest.raises(ValueError, match="multiple of 8"):
        pack_codes(codes, torch.ones(8, 3), "i4", group=12)
    with pytest.raises(ValueError, match="scales"):
        pack_codes(codes, scales, "i4", group=16)
    with pytest.raises(ValueError, match="permutation"):
        pack_codes(codes, scales, "i4", permutation=torch.zeros(32))
    with pytest.raises(ValueError, match="zero points"):
        quantize(numbers(1, 8, 32), "i8", has_zeros=True)
    with pytest.raises(ValueError, match="only i4w"):
        quantize(numbers(1, 8, 32), "i4", table=NF4)


@pytest.mark.parametrize("kind", ["f32", "bf16", "i8", "i4", "i4w"])
def test_bytes_in_a_mapped_file_are_the_weight(kind: str, tmp_path: Path) -> None:
    weight, bias, x = numbers(1, 50, 72), numbers(2, 50), numbers(3, 4, 72)
    if kind in DTYPES:
        packed = pack_float(weight, bias, kind=kind, gated=True)  # type: ignore[arg-type]
    else:
        table = NF4 if kind == "i4w" else None
        packed = quantize(weight, kind, group=24, table=table, bias=bias, gated=True)  # type: ignore[arg-type]
    path = tmp_path / "weights"
    path.write_bytes(bytes(64) + memoryview(packed))
    assert memoryview(packed).nbytes == packed.num_bytes
    assert memoryview(packed).readonly
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    again = _native.PackedLinear.from_buffer(view[64:])
    del view
    assert (again.kind, again.n, again.k, again.group, again.gated) == (kind, 50, 72, packed.group, True)
    assert torch.equal(linear(x, again, activation="silu"), linear(x, packed, activation="silu"))


def test_other_bytes_are_no_weight() -> None:
    whole = memoryview(pack_float(numbers(1, 32, 64)))
    with pytest.raises(ValueError, match="cut off"):
        _native.PackedLinear.from_buffer(whole[:-64])
    with pytest.raises(ValueError, match="longer"):
        _native.PackedLinear.from_buffer(whole[:100])
    with pytest.raises(ValueError, match="not a packed weight"):
        _native.PackedLinear.from_buffer(whole[64:])
    shifted = bytearray(whole.nbytes + 128)
    address = torch.frombuffer(shifted, dtype=torch.uint8).data_ptr()
    start = (65 - address) % 64
    shifted[start : start + whole.nbytes] = whole
    with pytest.raises(ValueError, match="multiple of 64"):
        _native.PackedLinear.from_buffer(memoryview(shifted)[start:])
    with pytest.raises(TypeError):
        _native.PackedLinear.from_buffer(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "k"), [(64, 72), (32, 8), (40, 64), (48, 20), (96, 40)])
@pytest.mark.parametrize("gated", [False, True])
def test_halves_that_are_copied_equal_those_that_are_converted(n: int, k: int, gated: bool, dtype: torch.dtype) -> None:
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(n + k)).to(dtype)
    kind: Any = {torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    copied, converted = (pack_float(each, kind=kind, gated=gated) for each in (weight, weight.float()))
    assert bytes(memoryview(copied)) == bytes(memoryview(converted))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["f32", "bf16", "i8", "i4", "i4w"])
@pytest.mark.parametrize("gated", [False, True])
def test_parts_are_packed_as_the_weight_that_they_make_up(kind: str, gated: bool) -> None:
    weight, bias = numbers(1, 70, 72), numbers(2, 70)
    parts = [weight[:33].half().float(), weight[33:34], weight[34:]]
    apart = [parts[0].half(), parts[1], torch.cat((parts[2], parts[2]), dim=1)[:, :72]]  # another kind, another stride
    if kind in DTYPES:
        packed = [pack_float(w, bias, kind=kind, gated=gated) for w in (apart, torch.cat(parts))]  # type: ignore[arg-type]
    else:
        packed = [
            quantize(w, kind, group=24, bias=bias, gated=gated)  # type: ignore[arg-type]
            for w in (apart, torch.cat(parts))
        ]
    assert bytes(memoryview(packed[0])) == bytes(memoryview(packed[1]))  # type: ignore[arg-type]


def test_parts_of_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="a weight of shape"):
        pack_float([numbers(1, 8, 4), numbers(1, 8, 5)])
    with pytest.raises(ValueError, match="parts' rows"):
        _native.PackedLinear.pack_float("f32", [(0, "f32", 4, 8)], 9, 4)


@pytest.mark.parametrize("kind", ["i8", "i4"])
def test_scales_have_16_bits_only_where_all_of_them_fit(kind: str) -> None:
    """Rounding begins with the size that is likely; both layouts come out of either."""
    few, many = torch.zeros(32, 64), torch.full((32, 64), 2.0**-30)
    few[:, 0], many[:, 0] = 127 * 2.0**-3, 127 * 2.0**-30
    small, large = (quantize(weight, kind, group=64) for weight in (few, many))  # type: ignore[arg-type]
    if kind == "i8":
        assert small.num_bytes < large.num_bytes
    for packed, weight in ((small, few), (large, many)):
        got = linear(torch.eye(64), packed).T
        torch.testing.assert_close(got, weight, rtol=0.1, atol=weight.max().item() / 10)
