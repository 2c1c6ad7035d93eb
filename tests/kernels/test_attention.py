"""The attention operator against its reference: odd shapes, every feature, decodes and prefill chunks in one step."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from segue.kernels import ops, plain, reference
from segue.kernels.metadata import AttentionMetadata, AttentionSpec, RelativeBias

CPU = torch.device("cpu")
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


@dataclass(frozen=True)
class Shape:
    """Decodes first: ``query_lens`` begins with that many ones."""

    query_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    num_decodes: int
    num_heads: int = 4
    num_kv_heads: int = 4
    head_dim: int = 16
    block_size: int = 4


SHAPES = {
    "one decode": Shape((1,), (13,), 1),
    "decode of a first token": Shape((1,), (1,), 1),
    "decodes of equal length": Shape((1, 1), (8, 8), 2, num_heads=6, num_kv_heads=2, head_dim=10),
    "decodes, one kv head": Shape((1, 1, 1), (3, 17, 9), 3, num_heads=5, num_kv_heads=1, head_dim=12),
    "whole prompt": Shape((11,), (11,), 0, head_dim=9),
    "whole prompt, grouped": Shape((14,), (14,), 0, num_heads=6, num_kv_heads=3, head_dim=5),
    "chunk of a prompt": Shape((7,), (20,), 0, num_heads=6, num_kv_heads=2, head_dim=10),
    "chunk of one token": Shape((1,), (9,), 0),
    "decodes and prefills": Shape((1, 1, 5, 12, 3), (10, 31, 5, 19, 33), 2, num_heads=6, num_kv_heads=2, head_dim=14),
    "blocks of one token": Shape((1, 6), (7, 9), 1, head_dim=3, block_size=1),
    "blocks longer than a sequence": Shape((1, 1, 4), (5, 2, 6), 2, block_size=32),
}


def slopes(shape: Shape) -> torch.Tensor:
    return torch.tensor([0.71 ** (i + 1) for i in range(shape.num_heads)])


def t5_bias(shape: Shape, *, bidirectional: bool) -> RelativeBias:
    return RelativeBias(torch.randn(8, shape.num_heads), max_distance=12, bidirectional=bidirectional)


FEATURES: dict[str, Callable[[Shape], dict[str, Any]]] = {
    "plain": lambda shape: {},
    "scale 1": lambda shape: {"scale": 1.0},
    "window 1": lambda shape: {"sliding_window": 1},
    "window": lambda shape: {"sliding_window": 6},
    "window wider than all": lambda shape: {"sliding_window": 100},
    "soft cap": lambda shape: {"soft_cap": 0.7},
    "soft cap in a window": lambda shape: {"soft_cap": 0.7, "sliding_window": 6},
    "ALiBi": lambda shape: {"alibi_slopes": slopes(shape)},
    "ALiBi in a window": lambda shape: {"alibi_slopes": slopes(shape), "sliding_window": 6},
    "rounded ALiBi": lambda shape: {"alibi_slopes": slopes(shape), "alibi_is_rounded": True},
    "relative bias": lambda shape: {"relative_bias": t5_bias(shape, bidirectional=False), "scale": 1.0},
    "sinks": lambda shape: {"sinks": torch.randn(shape.num_heads)},
    "sinks in a window": lambda shape: {"sinks": torch.randn(shape.num_heads), "sliding_window": 6},
    "both directions": lambda shape: {"causal": False},
}


def spec_of(feature: str, shape: Shape) -> AttentionSpec:
    base = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads, "scale": shape.head_dim**-0.5}
    return AttentionSpec(**{**base, **FEATURES[feature](shape)})


@dataclass
class Step:
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    meta: AttentionMetadata


def make_step(shape: Shape, dtype: torch.dtype, *, contiguous: bool) -> Step:
    """Slots that no sequence owns hold numbers large enough to be seen in the result if they were read."""
    counts = [-(-n // shape.block_size) for n in shape.kv_lens]
    num_blocks = sum(counts) + 3
    order = list(range(num_blocks)) if contiguous else torch.randperm(num_blocks).tolist()
    tables = []
    for count in counts:
        tables.append(order[:count])
        order = order[count:]
    size = (num_blocks, shape.block_size, shape.num_kv_heads, shape.head_dim)
    k_cache, v_cache = torch.full(size, 50.0), torch.full(size, 50.0)
    for table, kv_len in zip(tables, shape.kv_lens, strict=True):
        slots = torch.tensor(
            [table[p // shape.block_size] * shape.block_size + p % shape.block_size for p in range(kv_len)]
        )
        row = (kv_len, shape.num_kv_heads, shape.head_dim)
        ops.write_kv(torch.randn(row), torch.randn(row), k_cache, v_cache, slots)
    meta = AttentionMetadata(
        query_lens=shape.query_lens,
        kv_lens=shape.kv_lens,
        block_tables=tables,
        num_decodes=shape.num_decodes,
        block_size=shape.block_size,
        device=CPU,
    )
    q = torch.randn(sum(shape.query_lens), shape.num_heads, shape.head_dim)
    return Step(q.to(dtype), k_cache.to(dtype), v_cache.to(dtype), meta)


def assert_equals_reference(step: Step, spec: AttentionSpec) -> None:
    ours = ops.paged_attention(step.q, step.k_cache, step.v_cache, step.meta, spec)
    expected = reference.paged_attention(step.q, step.k_cache, step.v_cache, step.meta, spec)
    assert ours.dtype == step.q.dtype
    tolerance = TOLERANCES[step.q.dtype]
    torch.testing.assert_close(ours.float(), expected.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", SHAPES)
def test_features_on_shapes(name: str, feature: str) -> None:
    torch.manual_seed(len(name) + len(feature))
    shape = SHAPES[name]
    for contiguous in (True, False):
        assert_equals_reference(make_step(shape, torch.float32, contiguous=contiguous), spec_of(feature, shape))


@pytest.mark.parametrize("feature", FEATURES)
def test_decodes_as_one_padded_batch(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What GPUs run."""
    monkeypatch.setattr(plain, "_decode_each", plain._decode_padded)
    for name in ("decodes of equal length", "decodes, one kv head", "decodes and prefills", "one decode"):
        torch.manual_seed(len(name) + len(feature))
        assert_equals_reference(
            make_step(SHAPES[name], torch.float32, contiguous=False), spec_of(feature, SHAPES[name])
        )


@pytest.mark.parametrize("feature", FEATURES)
def test_bfloat16(feature: str) -> None:
    torch.manual_seed(len(feature))
    shape = SHAPES["decodes and prefills"]
    assert_equals_reference(make_step(shape, torch.bfloat16, contiguous=False), spec_of(feature, shape))


def test_layers_of_one_step_do_not_share_what_differs() -> None:
    """A step keeps its masks for the next layer, which may have another window or another bias."""
    torch.manual_seed(0)
    shape = SHAPES["decodes and prefills"]
    step = make_step(shape, torch.float32, contiguous=False)
    for feature in (*FEATURES, *reversed(FEATURES)):
        assert_equals_reference(step, spec_of(feature, shape))


def test_window_counts_the_query_itself() -> None:
    """With a window of 1 a query sees its own key alone: the result is its value."""
    torch.manual_seed(0)
    shape = SHAPES["whole prompt"]
    step = make_step(shape, torch.float32, contiguous=True)
    out = ops.paged_attention(step.q, step.k_cache, step.v_cache, step.meta, spec_of("window 1", shape))
    torch.testing.assert_close(out, step.v_cache.flatten(0, 1)[:11])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("feature", ["plain", "window", "soft cap", "relative bias", "bidirectional relative bias"])
@pytest.mark.parametrize("lens", [(7,), (1, 12, 5)])
def test_packed_inputs_without_a_cache(lens: Seq[int], feature: str, dtype: torch.dtype) -> None:
    torch.manual_seed(len(feature))
    shape = Shape(tuple(lens), tuple(lens), 0, num_heads=6, num_kv_heads=2, head_dim=10)
    if feature == "bidirectional relative bias":
        bias = t5_bias(shape, bidirectional=True)
        spec = AttentionSpec(num_heads=6, num_kv_heads=2, scale=1.0, causal=False, relative_bias=bias)
    else:
        spec = spec_of(feature, shape)
    q, k, v = (torch.randn(sum(lens), heads, 10, dtype=dtype) for heads in (6, 2, 2))
    meta = AttentionMetadata(query_lens=lens, kv_lens=lens, block_tables=[], num_decodes=0, block_size=4, device=CPU)
    ours = ops.varlen_attention(q, k, v, meta, spec)
    parts = [reference.attention(q[a:b], k[a:b], v[a:b], spec, 0) for a, b in pairwise(meta.query_starts)]
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(ours.float(), torch.cat(parts).float(), atol=tolerance, rtol=tolerance)


def test_cross_attention_sees_all_keys_of_a_shorter_source() -> None:
    torch.manual_seed(0)
    shape = Shape((1, 1, 9), (5, 12, 4), 2, num_heads=6, num_kv_heads=2)
    assert_equals_reference(make_step(shape, torch.float32, contiguous=False), spec_of("both directions", shape))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_buckets_are_t5s(bidirectional: bool) -> None:
    relative = torch.arange(-300, 301)
    ours = reference.relative_buckets(relative, 32, 128, bidirectional)
    theirs = T5Attention._relative_position_bucket(
        relative, bidirectional=bidirectional, num_buckets=32, max_distance=128
    )
    assert torch.equal(ours, theirs)


def test_write_kv_casts_and_leaves_other_slots() -> None:
    k_cache = torch.zeros(3, 4, 2, 5, dtype=torch.bfloat16)
    v_cache = torch.zeros(3, 4, 2, 5, dtype=torch.bfloat16)
    k, v = torch.randn(2, 2, 5), torch.randn(2, 2, 5)
    ops.write_kv(k, v, k_cache, v_cache, torch.tensor([9, 2]))
    assert torch.equal(k_cache[2, 1], k[0].bfloat16())
    assert torch.equal(v_cache[0, 2], v[1].bfloat16())
    assert k_cache.count_nonzero() == v_cache.count_nonzero() == 20
