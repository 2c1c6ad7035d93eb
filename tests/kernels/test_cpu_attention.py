"""Native attention against the reference: every feature, odd shapes, every kind of cache, each instruction set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.kernels import reference
from segue.kernels.metadata import AttentionMetadata, AttentionSpec, RelativeBias
from segue.kernels.scaled_cache import CacheTensor, ScaledCache
from segue.layers.attention import KVLayerSpec
from segue.runner import kv_cache

_native = pytest.importorskip("segue.kernels.cpu._native")
attention = pytest.importorskip("segue.kernels.cpu.attention")

CPU = torch.device("cpu")
CACHES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)
"""Kinds of cache, each compared with the reference on the very values that it holds."""


@dataclass(frozen=True)
class Shape:
    query_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    num_heads: int = 4
    num_kv_heads: int = 4
    key_dim: int = 16
    value_dim: int = 16
    block_size: int = 16


SHAPES = {
    "decodes": Shape((1, 1, 1), (13, 1, 70)),
    "decodes, grouped": Shape((1, 1), (64, 65), num_heads=6, num_kv_heads=2, key_dim=10, value_dim=24),
    "decodes, one kv head": Shape((1, 1, 1), (3, 17, 9), num_heads=5, num_kv_heads=1, key_dim=80, value_dim=80),
    "decodes of many splits": Shape((1, 1, 3), (1500, 40, 1030), num_heads=4, num_kv_heads=2, block_size=16),
    "whole prompt": Shape((131,), (131,), key_dim=9, value_dim=9, block_size=4),
    "long prompt, grouped": Shape((150,), (700,), num_heads=6, num_kv_heads=2, key_dim=20, value_dim=18),
    "decodes and prefills": Shape((1, 1, 5, 12, 3, 90), (10, 31, 5, 19, 33, 90), num_heads=6, num_kv_heads=2),
    "the same, in blocks of 4": Shape((1, 1, 5, 12, 3, 90), (10, 31, 5, 19, 33, 90), 6, 2, block_size=4),
    "decodes in blocks of 48": Shape((1, 1, 1), (13, 49, 200), num_heads=6, num_kv_heads=3, block_size=48),
    "blocks of one token": Shape((1, 9), (7, 70), key_dim=3, value_dim=1, block_size=1),
    "blocks longer than a sequence": Shape((1, 1, 14), (5, 2, 16), block_size=32),
    "one head": Shape((1, 33), (100, 33), num_heads=1, num_kv_heads=1, key_dim=64, value_dim=64, block_size=16),
    "more heads than a block of rows": Shape((10, 1), (12, 9), num_heads=300, num_kv_heads=1, key_dim=4, value_dim=4),
}


def slopes(shape: Shape) -> Tensor:
    return torch.tensor([0.71 ** (i + 1) for i in range(shape.num_heads)])


def t5_bias(shape: Shape, *, bidirectional: bool) -> RelativeBias:
    return RelativeBias(torch.randn(8, shape.num_heads), max_distance=12, bidirectional=bidirectional)


FEATURES: dict[str, Callable[[Shape], dict[str, Any]]] = {
    "plain": lambda shape: {},
    "window 1": lambda shape: {"sliding_window": 1},
    "window": lambda shape: {"sliding_window": 70},
    "soft cap in a window": lambda shape: {"soft_cap": 0.7, "sliding_window": 6},
    "ALiBi": lambda shape: {"alibi_slopes": slopes(shape)},
    "rounded ALiBi": lambda shape: {"alibi_slopes": slopes(shape), "alibi_is_rounded": True},
    "relative bias": lambda shape: {"relative_bias": t5_bias(shape, bidirectional=False), "scale": 1.0},
    "sinks in a window": lambda shape: {"sinks": torch.randn(shape.num_heads), "sliding_window": 6},
    "both directions": lambda shape: {"causal": False},
    "both directions, relative bias": lambda shape: {
        "causal": False,
        "relative_bias": t5_bias(shape, bidirectional=True),
    },
}


@pytest.fixture(autouse=True, params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = _native.isa(), _native.num_threads()
    _native.use_isa(request.param)
    _native.set_num_threads(3)
    yield request.param
    _native.use_isa(before)
    _native.set_num_threads(threads)


def spec_of(feature: str, shape: Shape) -> AttentionSpec:
    base = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads, "scale": shape.key_dim**-0.5}
    return AttentionSpec(**{**base, **FEATURES[feature](shape)})


@dataclass
class Step:
    q: Tensor
    k_cache: CacheTensor
    v_cache: CacheTensor
    meta: AttentionMetadata

    def attend(self, spec: AttentionSpec) -> Tensor:
        return attention.paged_attention(self.q, self.k_cache, self.v_cache, self.meta, spec)

    def reference(self, spec: AttentionSpec) -> Tensor:
        return reference.paged_attention(self.q, widened(self.k_cache), widened(self.v_cache), self.meta, spec)


def widened(cache: CacheTensor) -> Tensor:
    return cache.widened(slice(None)) if isinstance(cache, ScaledCache) else cache.float()


def filled_caches(shape: Shape, num_blocks: int, dtype: torch.dtype, junk: float, *, by_heads: bool) -> list[Any]:
    """Keys and values, as ``kv_cache`` lays them out."""
    layer = KVLayerSpec(shape.num_kv_heads, shape.key_dim, shape.value_dim)
    [caches] = kv_cache.allocate([layer], num_blocks, shape.block_size, dtype, CPU, by_heads=by_heads)
    for cache in caches:
        if isinstance(cache, ScaledCache):
            cache.codes.fill_(junk)
            cache.scales.fill_(9.0)
        else:
            cache.fill_(junk)
    return list(caches)


def metadata(query_lens: tuple[int, ...], kv_lens: tuple[int, ...], tables: Any, block_size: int) -> AttentionMetadata:
    return AttentionMetadata(
        query_lens=query_lens, kv_lens=kv_lens, block_tables=tables, num_decodes=0, block_size=block_size, device=CPU
    )


def make_step(shape: Shape, dtype: torch.dtype = torch.float32, *, by_heads: bool = True) -> Step:
    """Blocks in random order. Slots that no sequence owns are NaN, or large, so that a read of one shows."""
    counts = [-(-n // shape.block_size) for n in shape.kv_lens]
    num_blocks = sum(counts) + 3
    order = torch.randperm(num_blocks).tolist()
    tables = []
    for count in counts:
        tables.append(order[:count])
        order = order[count:]
    junk = 100 if dtype == torch.int8 else torch.nan
    k_cache, v_cache = filled_caches(shape, num_blocks, dtype, junk, by_heads=by_heads)
    for table, kv_len in zip(tables, shape.kv_lens, strict=True):
        slots = [table[p // shape.block_size] * shape.block_size + p % shape.block_size for p in range(kv_len)]
        k = torch.randn(kv_len, shape.num_kv_heads, shape.key_dim)
        v = torch.randn(kv_len, shape.num_kv_heads, shape.value_dim)
        attention.write_kv(k, v, k_cache, v_cache, torch.tensor(slots, dtype=torch.int64))
    q = torch.randn(sum(shape.query_lens), shape.num_heads, shape.key_dim)
    return Step(q, k_cache, v_cache, metadata(shape.query_lens, shape.kv_lens, tables, shape.block_size))


def assert_close(ours: Tensor, expected: Tensor, tolerance: float = 4e-6) -> None:
    torch.testing.assert_close(ours, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", SHAPES)
def test_features_on_shapes(name: str, feature: str) -> None:
    torch.manual_seed(len(name) + len(feature))
    step, spec = make_step(SHAPES[name]), spec_of(feature, SHAPES[name])
    # Scores of hundreds: half a unit in their last place is 1.5e-5, as much in a weight.
    assert_close(step.attend(spec), step.reference(spec), 2e-5 if "ALiBi" in feature else 4e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("name", SHAPES)
def test_both_layouts_of_a_block_give_the_same(name: str, dtype: torch.dtype) -> None:
    results = []
    for by_heads in (False, True):
        torch.manual_seed(len(name))
        step = make_step(SHAPES[name], dtype, by_heads=by_heads)
        results.append(step.attend(spec_of("plain", SHAPES[name])))
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("name", ["decodes, grouped", "long prompt, grouped", "decodes of many splits"])
def test_kinds_of_cache(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(len(name))
    step, spec = make_step(SHAPES[name], dtype), spec_of("plain", SHAPES[name])
    assert_close(step.attend(spec), step.reference(spec))


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize("dim", [40, 64, 80, 128])
@pytest.mark.parametrize("group", [2, 3, 4, 7, 8, 9, 12, 33])
def test_decodes_of_groups_of_any_size(group: int, dim: int, dtype: torch.dtype) -> None:
    """Keys that end inside a tile, at its end, one after a register, beyond a split; a window that begins in one."""
    torch.manual_seed(group)
    shape = Shape((1,) * 5, (1, 64, 33, 131, 600), 2 * group, 2, key_dim=dim, value_dim=dim, block_size=16)
    step = make_step(shape, dtype)
    for feature in ("plain", "window"):
        spec = spec_of(feature, shape)
        exact = step.reference(spec)
        assert_close(
            step.attend(spec), exact, rounding_of_pairs(step, spec, exact) if dtype == torch.bfloat16 else 4e-6
        )


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize(("group", "dim"), [(1, 64), (3, 20), (8, 64), (12, 96), (33, 32)])
def test_a_decode_gives_the_bits_of_a_prompt(group: int, dim: int, dtype: torch.dtype) -> None:
    """A query alone takes the keys as they lie, a prompt's share a packed tile."""
    torch.manual_seed(group)
    shape = Shape((600,), (600,), 2 * group, 2, key_dim=dim, value_dim=dim, block_size=16)
    step, spec = make_step(shape, dtype), spec_of("plain", shape)
    ends = (1, 2, 63, 64, 65, 95, 97, 512, 513, 599, 600)
    meta = metadata((1,) * len(ends), ends, [step.meta.block_tables[0]] * len(ends), 16)
    rows = [end - 1 for end in ends]
    assert torch.equal(Step(step.q[rows], step.k_cache, step.v_cache, meta).attend(spec), step.attend(spec)[rows])


def rounding_of_pairs(step: Step, spec: AttentionSpec, exact: Tensor) -> float:
    """What rounding queries and weights to bfloat16 may change, at most."""
    rounded = Step(step.q.bfloat16().float(), step.k_cache, step.v_cache, step.meta)
    return 2 * float((rounded.reference(spec) - exact).abs().max() + 2**-8 * exact.abs().max())


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("lens", [((1, 1), (64, 65)), ((150,), (701,)), ((1, 7, 40), (1500, 40, 1031))])
def test_a_bfloat16_cache_of_grouped_heads(lens: tuple[tuple[int, ...], tuple[int, ...]], feature: str) -> None:
    """Where the processor multiplies pairs of bfloat16, queries and weights are rounded as keys and values are."""
    torch.manual_seed(len(feature))
    shape = Shape(*lens, num_heads=6, num_kv_heads=2, key_dim=64, value_dim=48, block_size=16)
    step, spec = make_step(shape, torch.bfloat16), spec_of(feature, shape)
    exact = step.reference(spec)
    assert (step.attend(spec) - exact).abs().max() < rounding_of_pairs(step, spec, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("feature", [name for name in FEATURES if not name.startswith("both")])
def test_a_prompt_in_chunks_gives_the_same_bits(feature: str, dtype: torch.dtype) -> None:
    """Whole, in chunks, or token by token; alone or beside others; by any number of threads."""
    torch.manual_seed(len(feature))
    shape = Shape((1100,), (1100,), num_heads=4, num_kv_heads=2, key_dim=32, block_size=16)
    step, spec = make_step(shape, dtype), spec_of(feature, shape)
    whole = step.attend(spec)
    tables = [step.meta.block_tables[0]] * 4
    for ends, threads in (((1100, 1000, 600), 1), ((1099, 513, 512), 2), ((300, 1, 8), 4)):
        _native.set_num_threads(threads)
        lens = (1, 8, 1, 200)
        kv_lens = (ends[0], max(ends[1], 8), ends[2], 1100)
        parts = [step.q[end - count : end] for count, end in zip(lens, kv_lens, strict=True)]
        meta = metadata(lens, kv_lens, tables, 16)
        together = Step(torch.cat(parts), step.k_cache, step.v_cache, meta).attend(spec)
        expected = [whole[end - count : end] for count, end in zip(lens, kv_lens, strict=True)]
        assert torch.equal(together, torch.cat(expected)), (ends, threads)


@pytest.mark.parametrize("feature", ["plain", "window", "soft cap in a window", "both directions, relative bias"])
@pytest.mark.parametrize("lens", [(7,), (1, 12, 5), (300, 2, 65)])
def test_packed_inputs_without_a_cache(lens: tuple[int, ...], feature: str) -> None:
    torch.manual_seed(len(feature))
    shape = Shape(lens, lens, num_heads=6, num_kv_heads=2, key_dim=10, value_dim=20)
    spec = spec_of(feature, shape)
    q, k, v = (torch.randn(sum(lens), heads, dim) for heads, dim in ((6, 10), (2, 10), (2, 20)))
    meta = metadata(lens, lens, [], 4)
    ours = attention.varlen_attention(q, k, v, meta, spec)
    parts = [reference.attention(q[a:b], k[a:b], v[a:b], spec, 0) for a, b in pairwise(meta.query_starts)]
    assert_close(ours, torch.cat(parts))


def test_parts_of_wider_rows() -> None:
    """q, k and v as a fused projection leaves them: views with a stride between rows."""
    torch.manual_seed(0)
    fused = torch.randn(40, 3 * 4 * 16)
    q, k, v = (part.unflatten(1, (4, 16)) for part in fused.split(64, dim=1))
    spec, meta = spec_of("plain", Shape((40,), (40,))), metadata((40,), (40,), [], 4)
    assert_close(attention.varlen_attention(q, k, v, meta, spec), reference.attention(q, k, v, spec, 0))


def test_bfloat16_queries_give_bfloat16() -> None:
    torch.manual_seed(0)
    step, spec = make_step(SHAPES["decodes"]), spec_of("plain", SHAPES["decodes"])
    step.q = step.q.bfloat16()
    assert step.attend(spec).dtype == torch.bfloat16


def test_no_keys_give_zeros() -> None:
    step, spec = make_step(Shape((1, 1), (0, 3))), spec_of("both directions", Shape((1, 1), (0, 3)))
    out = step.attend(spec)
    assert torch.equal(out[0], torch.zeros(4, 16))
    assert not out[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_write_rounds_as_pytorch_does(dtype: torch.dtype) -> None:
    """To nearest even, subnormals, overflow and NaN included; other slots are left."""
    special = torch.tensor([0.0, -0.0, 65504, 65519.9, 65520, 1e9, -1e9, torch.inf, -torch.inf, torch.nan, 1e-8, 3e-8])
    torch.manual_seed(0)
    exponents = torch.randn(2, 3, 40 - 12) * 2.0 ** torch.randint(-26, 17, (2, 3, 28))
    k = torch.cat((special.expand(2, 3, 12), exponents), dim=-1)
    k_cache, v_cache = torch.zeros(3, 4, 3, 40, dtype=dtype), torch.zeros(3, 4, 3, 40, dtype=dtype)
    attention.write_kv(k, k.flip(0), k_cache, v_cache, torch.tensor([9, 2]))
    torch.testing.assert_close(k_cache[2, 1], k[0].to(dtype), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(v_cache[0, 2], k[0].to(dtype), rtol=0, atol=0, equal_nan=True)
    assert k_cache.flatten(0, 1)[[0, 1, 3, 4, 5, 6, 7, 8, 10, 11]].count_nonzero() == 0


def test_int8_cache_keeps_each_head_within_half_a_step() -> None:
    torch.manual_seed(0)
    k = torch.randn(5, 3, 20) * torch.tensor([0.0, 1e-3, 50.0])[None, :, None]
    k_cache, v_cache = filled_caches(Shape((), (), 3, 3, 20, 20, 4), 2, torch.int8, 0, by_heads=False)
    slots = torch.tensor([7, 0, 3, 4, 1])
    attention.write_kv(k, k, k_cache, v_cache, slots)
    step = k.abs().amax(-1, keepdim=True) / 127
    stored = widened(k_cache).flatten(0, 1)[slots]
    assert ((stored - k).abs() <= step * 0.5001).all()
    assert torch.equal(stored, widened(v_cache).flatten(0, 1)[slots])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", [0, 5, 19])
def test_int8_cache_keeps_what_is_not_finite(bad: float, where: int) -> None:
    """Its codes cannot, and finite numbers in its place would let a sequence at fault go on with nonsense."""
    k = torch.randn(1, 3, 20)
    k[0, 1, where] = bad
    cache, other = filled_caches(Shape((), (), 3, 3, 20, 20, 4), 1, torch.int8, 0, by_heads=False)
    attention.write_kv(k, k, cache, other, torch.tensor([2]))
    assert not widened(cache)[0, 2, 1].isfinite().any()
    assert widened(cache)[0, 2, [0, 2]].isfinite().all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_shape(data: st.DataObject) -> None:
    kv_heads, group = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    sequences = data.draw(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 200)), min_size=1, max_size=4))
    shape = Shape(
        tuple(queries for queries, _ in sequences),
        tuple(queries + before for queries, before in sequences),
        num_heads=kv_heads * group,
        num_kv_heads=kv_heads,
        key_dim=data.draw(st.integers(1, 40)),
        value_dim=data.draw(st.integers(1, 40)),
        block_size=data.draw(st.sampled_from([1, 3, 16])),
    )
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    step, spec = make_step(shape), spec_of(data.draw(st.sampled_from(sorted(FEATURES))), shape)
    assert_close(step.attend(spec), step.reference(spec), 2e-5)
