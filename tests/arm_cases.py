"""Cases of the CPU kernels for tests/kernels/arm_driver.cpp, each with what must come out."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.kernels import reference
from segue.kernels.metadata import AttentionSpec

KINDS = ("f32", "f16", "bf16", "i8", "i8w", "i4", "i4w")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
COUNTS = (1, 3, 5, 8, 17)
"""Numbers of rows."""

ACTIVATIONS: dict[int, Callable[[Tensor], Tensor]] = {
    0: lambda x: x,
    4: F.gelu,
    5: lambda x: F.gelu(x, approximate="tanh"),
    7: F.silu,
    8: lambda x: x * torch.sigmoid(1.702 * x),
    9: torch.tanh,
    11: F.mish,
}
"""By their place in the enumeration in linear.h."""

TABLE = torch.tensor([(i - 7.5) ** 3 / 7.5**3 for i in range(16)])


@dataclass(frozen=True, slots=True)
class Case:
    given: tuple[Any, ...]
    """What the driver reads: an operator's number, whole numbers, real ones, arrays (None: none)."""
    check: Callable[[Tensor], None]

    def encoded(self) -> bytes:
        return b"".join(encoded(value) for value in self.given)


def encoded(value: float | Tensor | None) -> bytes:
    if isinstance(value, int):
        return struct.pack("<q", value)
    if isinstance(value, float):
        return struct.pack("<d", value)
    content = b"" if value is None else value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return struct.pack("<q", len(content)) + content


def whole(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64)


def assert_near(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the largest."""
    difference = (got - want.double()).abs().max().item()
    assert difference <= tolerance * max(1.0, want.abs().max().item()), (difference, got, want)


def rounded_rows(x: Tensor, group: int) -> Tensor:
    """Activations as int8 codes with a scale for each row and group."""
    most = torch.cat([part.abs().amax(1, keepdim=True).expand_as(part) for part in x.split(group, dim=1)], dim=1)
    return (x.double() * (127.0 / most).double()).round() * (most / 127.0).double()


def linear(
    kind: str, n: int, k: int, group: int = 0, activation: int = 0, *,
    gated: bool = False, has_zeros: bool = False, has_table: bool = False, is_permuted: bool = False,
) -> Case:  # fmt: skip
    x, bias, size = torch.randn(COUNTS[-1], k), torch.randn(n), group or k
    scales = zeros = order = None
    if kind in KINDS[:3]:
        data = torch.randn(n, k).to(DTYPES[KINDS.index(kind)])
        weight, inputs = data.double(), x.double()
    else:
        low, high, dtype = (-128, 128, torch.int8) if "8" in kind else (0, 16, torch.uint8)
        data = torch.randint(low, high, (n, k)).to(dtype)
        scales = torch.randn(n, -(-k // size)) * 4 / high
        zeros = torch.randint(16, scales.shape).byte() if has_zeros else None
        points = torch.full(scales.shape, (low + high) // 2) if zeros is None else zeros
        point, scale = (each.double().repeat_interleave(size, 1)[:, :k] for each in (points, scales))
        weight = (TABLE[data.long()] if has_table else data.double() - point) * scale
        order = torch.randperm(k).int() if is_permuted else None
        inputs = x if order is None else x[:, order]
        inputs = inputs.double() if kind.endswith("w") else rounded_rows(inputs, size)
    want, act = 0.5 * (inputs @ weight.T) + bias.double(), ACTIVATIONS[activation]
    want = act(want[:, : n // 2]) * want[:, n // 2 :] if gated else act(want)
    residual = torch.randn(want.shape)

    def check(got: Tensor) -> None:
        parts = got.split([rows * want.shape[1] for rows in COUNTS])
        assert_near(parts[-1].view_as(want), want + residual)
        for part in parts:
            assert torch.equal(part, parts[-1][: len(part)])  # a row is the same alone and among others

    how, stored = (0, KINDS.index(kind)) if scales is None else (2, 0)
    arrays = (data, scales, zeros, TABLE if has_table else None, order, bias)
    given = (0, how, KINDS.index(kind), n, k, group, gated, has_zeros, stored, *arrays)
    return Case((*given, len(COUNTS), whole(*COUNTS), x, residual, 0.5, activation), check)


def rounding(
    kind: str, group: int, error: float, dtype: torch.dtype, *, has_zeros: bool = False, has_table: bool = False
) -> Case:
    """``error``: root mean square of normal weights, which their product with the unit matrix gives back."""
    n, k = 70, 200
    weight, table = torch.randn(n, k).to(dtype), TABLE if has_table else None

    def check(got: Tensor) -> None:
        assert (got.view(k, n).T - weight.double()).pow(2).mean().sqrt().item() <= error

    given = (0, 1, KINDS.index(kind), n, k, group, False, has_zeros, DTYPES.index(dtype), weight, None, None, table)
    return Case((*given, None, None, 1, whole(k), torch.eye(k), None, 1.0, 0), check)


def kept(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """What a cache of ``dtype`` holds of x."""
    if dtype != torch.int8:
        return x.to(dtype or x.dtype).float()
    scale = x.abs().amax(-1, keepdim=True) / 127.0
    return (x * (1.0 / scale)).round() * scale


def attention(
    queries: tuple[int, ...], keys: tuple[int, ...], dtype: torch.dtype | None, heads: tuple[int, int, int, int], *,
    tails: bool = False, **features: Any,
) -> Case:  # fmt: skip
    """``dtype``: the cache's; None: packed. ``tails``: each sequence is the end of the first one, with its keys."""
    spec = AttentionSpec(num_heads=heads[0], num_kv_heads=heads[1], scale=heads[2] ** -0.5, **features)
    block_size = 0 if dtype is None else 16
    k, v = (torch.randn(keys[0] if tails else sum(keys), heads[1], dim) for dim in heads[2:])
    q = torch.randn(sum(queries), heads[0], heads[2])
    if tails:
        q = torch.cat([q[queries[0] - count : queries[0]] for count in queries])
    ends, counts = list(accumulate(queries, initial=0)), [-(-length // 16) for length in keys]
    order = torch.randperm(sum(counts) + 3)
    firsts = [0] * len(keys) if tails else list(accumulate(counts, initial=0))
    tables = [order[first : first + count] for first, count in zip(firsts, counts, strict=False)]
    slots = [
        table.repeat_interleave(16)[:length] * 16 + torch.arange(length) % 16
        for table, length in zip(tables, keys, strict=True)
    ]

    def check(got: Tensor) -> None:
        outs, held, first = got.view(len(q), heads[0], heads[3]), [kept(each, dtype) for each in (k, v)], 0
        for (begin, end), length in zip(pairwise(ends), keys, strict=True):
            its_keys, its_values = (each[first : first + length] for each in held)
            want = reference.attention(q[begin:end], its_keys, its_values, spec, length - (end - begin))
            assert_near(outs[begin:end], want, 4e-6 if spec.alibi_slopes is None else 2e-5)
            if tails:
                assert torch.equal(outs[begin:end], outs[queries[0] - (end - begin) : queries[0]])
            else:
                first += length

    given = (1, *heads, spec.scale, spec.causal, spec.sliding_window or 0, spec.soft_cap or 0.0)
    padded = torch.stack([F.pad(table, (0, max(counts) - len(table))) for table in tables])
    sequences = (len(queries), whole(*ends), whole(*keys), padded, max(counts))
    cache = (0 if dtype is None else DTYPES.index(dtype), block_size, len(order), len(k), torch.cat(slots)[: len(k)])
    return Case((*given, spec.alibi_slopes, spec.sinks, *sequences, q, k, v, *cache), check)


def norm(dim: int, centered: bool) -> Case:
    x, weight, bias = torch.randn(7, dim) * 3 + 1, torch.randn(dim), torch.randn(dim) if centered else None
    want = F.rms_norm(x.double(), (dim,), weight.double(), 1e-5)
    if bias is not None:
        want = F.layer_norm(x.double(), (dim,), weight.double(), bias.double(), 1e-5)
    given = (2, x, 7, dim, weight, bias, 1e-5, centered)
    return Case(given, lambda got: assert_near(got.view_as(x), want, 2e-6))


def rotary(dim: int, pairs: int, interleaved: bool) -> Case:
    x, positions, inverse = torch.randn(5, 3, dim), whole(0, 1, 77, 131071, 1_000_000), 1 / 10000 ** torch.rand(pairs)
    angle = (positions[:, None] * inverse).double()[:, None]
    cos, sin = angle.cos() * 1.25, angle.sin() * 1.25
    first, rest = x[..., : 2 * pairs].double(), x[..., 2 * pairs :].double()
    a, b = (first[..., 0::2], first[..., 1::2]) if interleaved else first.chunk(2, dim=-1)
    both = (a * cos - b * sin, b * cos + a * sin)
    turned = torch.stack(both, -1).flatten(-2) if interleaved else torch.cat(both, -1)
    want = torch.cat((turned, rest), -1)
    given = (3, 5, 3, dim, pairs, positions, inverse, 1.25, x, interleaved)
    return Case(given, lambda got: assert_near(got.view_as(x), want, 1e-6))


def sample(vocab_size: int, *, top_k: int = 0, top_p: float = 0.0) -> Case:
    """Uniforms lie in the middle of an id's share, where no rounding reaches another's; the last row is greedy."""
    rows = 9
    logits = torch.randn(rows, vocab_size) * 3
    ordered, ids = logits.double().sort(descending=True)
    if top_k:
        ordered[:, top_k:] = -torch.inf
    chances = ordered.softmax(-1)
    if top_p:
        ordered = ordered.masked_fill(chances.cumsum(-1) - chances >= top_p, -torch.inf)
    masked = torch.empty_like(ordered).scatter_(1, ids, ordered)
    chances = masked.softmax(-1)
    chosen = chances.multinomial(1)
    uniforms = (chances.cumsum(-1) - chances / 2).gather(1, chosen)
    chosen[-1], uniforms[-1] = ids[-1, 0], -1.0
    logprobs = masked.log_softmax(-1).gather(1, chosen)

    def check(got: Tensor) -> None:
        assert got[0::2].tolist() == chosen.flatten().tolist()
        assert_near(got[1::2], logprobs.flatten(), 2e-6)

    limits = whole(*[top_k] * rows) if top_k else None
    shares = torch.full((rows,), top_p, dtype=torch.float64) if top_p else None
    return Case((4, rows, vocab_size, logits, uniforms, shares, limits), check)


SLOPES = torch.tensor([0.71 ** (i + 1) for i in range(6)])
SINKS = torch.tensor([0.5, -1.0, 3.0, 0.0, 1.0, -9.0])
MIXED = (1, 5, 12, 3, 90), (10, 5, 19, 33, 133)
GROUPED = (6, 2, 20, 18)

MAKERS: list[partial[Case]] = [
    *(partial(linear, kind, 1, 1) for kind in KINDS),
    *(partial(linear, kind, 70, 200) for kind in KINDS),
    *(partial(linear, kind, n, k, 32) for kind in KINDS for n, k in ((33, 64), (97, 45), (257, 385))),
    *(partial(linear, kind, 90, 96, 32, act, gated=True) for kind in KINDS for act in (5, 7)),
    *(partial(linear, "f32", 70, 40, 0, act) for act in ACTIVATIONS),
    *(partial(linear, kind, 70, 200, 64, has_zeros=True) for kind in ("i4", "i4w")),
    *(partial(linear, kind, 70, 200, 64, is_permuted=True) for kind in ("i8", "i4w")),
    partial(linear, "i4w", 70, 200, 64, has_table=True),
    partial(rounding, "i8w", 0, 0.012, torch.float32),
    partial(rounding, "i4w", 32, 0.10, torch.bfloat16),
    partial(rounding, "i4w", 0, 0.16, torch.float16),
    partial(rounding, "i4w", 32, 0.09, torch.float16, has_zeros=True),
    partial(rounding, "i4w", 64, 0.14, torch.float32, has_table=True),
    partial(attention, (1, 1, 1), (13, 1, 70), torch.float32, (4, 4, 16, 16)),
    partial(attention, (1, 1, 3), (1500, 40, 1030), torch.float16, (4, 2, 16, 16)),
    partial(attention, (1, 1), (64, 65), torch.int8, (6, 2, 10, 24)),
    partial(attention, *MIXED, torch.bfloat16, GROUPED, alibi_slopes=SLOPES),
    partial(attention, *MIXED, torch.int8, GROUPED, sliding_window=6, soft_cap=0.7),
    partial(attention, *MIXED, torch.float32, GROUPED, sliding_window=70, sinks=SINKS),
    partial(attention, *MIXED, torch.float16, GROUPED, causal=False),
    partial(attention, (7, 1, 300), (7, 1, 300), None, GROUPED, sliding_window=70),
    partial(attention, (12, 65), (12, 65), None, (5, 1, 33, 7), causal=False),
    *(partial(attention, (600, 200, 8, 1), (600,) * 4, dtype, GROUPED, tails=True) for dtype in DTYPES),
    *(partial(norm, dim, centered) for dim in (1, 7, 33, 100) for centered in (False, True)),
    *(partial(rotary, *dims, neighbours) for dims in ((2, 1), (64, 32), (50, 20)) for neighbours in (False, True)),
    *(partial(sample, size) for size in (1000, 4097)),
    partial(sample, 1000, top_k=7),
    partial(sample, 1000, top_p=0.8),
]
