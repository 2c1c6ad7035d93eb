"""Programs: what a recorded pass computes equals what the same layers compute on tensors."""

from typing import Any

import pytest
import torch

pytest.importorskip("segue.kernels.cpu._native")

from segue.kernels import ops
from segue.kernels.cpu.fusion import fused
from segue.kernels.cpu.program import EXTERNAL_INPUT, TILE_ROWS, NativeProgram
from segue.kernels.cpu.recorder import Recorder, TraceError
from segue.kernels.metadata import AttentionMetadata, AttentionSpec

CPU = torch.device("cpu")


def weight(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) / k**0.5


def run(program: NativeProgram, x: torch.Tensor) -> torch.Tensor:
    out = torch.full((x.shape[0], program.width), torch.nan)
    program.run(x.shape[0], input=x, output=out)
    return out


def both(make: Any, width: int, rows: int = 5) -> tuple[NativeProgram, torch.Tensor, torch.Tensor]:
    """A function of one value: as a program, that program's result and the one on tensors."""
    recorder = Recorder()
    program = NativeProgram(recorder, make(recorder.external(width, EXTERNAL_INPUT)))
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(3))
    return program, run(program, x), make(x)


def test_a_product_takes_activation_and_residual_along() -> None:
    packed, bias = weight(21, 13), torch.randn(21)
    linear = ops.pack(packed, bias)
    back = ops.pack(weight(13, 21, 1))
    program, ours, theirs = both(
        lambda x: x + ops.linear(ops.activate(ops.linear(x, linear, bias), "gelu"), back, None), 13
    )
    assert program.names == ["linear", "linear"]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_gate_multiplies_in_the_same_operation() -> None:
    def make(x: Any) -> Any:
        gate, up = x.split([8, 8], dim=-1)
        return ops.activate(gate, "silu") * up

    program, ours, theirs = both(make, 16)
    assert program.names == ["activate"]
    torch.testing.assert_close(ours, theirs)


def test_what_is_read_twice_is_not_merged_away() -> None:
    linear = ops.pack(weight(13, 13))

    def make(x: Any) -> Any:
        y = ops.linear(x, linear, None)
        return ops.activate(y, "relu") + y

    program, ours, theirs = both(make, 13)
    assert program.names == ["linear", "activate", "binary"]
    torch.testing.assert_close(ours, theirs)


def test_values_that_are_done_with_share_buffers() -> None:
    linears = [ops.pack(weight(13, 13, i)) for i in range(30)]

    def make(x: Any) -> Any:
        for linear in linears:
            x = x + ops.activate(ops.rms_norm(ops.linear(x, linear, None), torch.ones(13), 1e-5), "tanh")
        return x

    recorder = Recorder()
    made = make(recorder.external(13, EXTERNAL_INPUT))
    buffers = {buffer for op in fused(recorder.ops, [made.value]) if op.out for buffer in [op.out.value]}
    program, ours, theirs = both(make, 13)
    assert len(set(program._buffers.values())) <= 4 < len(buffers)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_views_scales_and_constants() -> None:
    constant = torch.randn(6)

    def make(x: Any) -> Any:
        a, b = x.view(x.shape[0], 2, 6).unbind(1)
        return ops.soft_cap((a + constant) * 3.0 + b[:, :6].to(torch.float32), 2.5).flatten(1)

    _, ours, theirs = both(make, 12)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, TILE_ROWS, TILE_ROWS + 1, 3 * TILE_ROWS + 17])
def test_rows_beyond_a_tile(rows: int) -> None:
    linear = ops.pack(weight(9, 13))
    _, ours, theirs = both(lambda x: ops.linear(x, linear, None), 13, rows)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lens", [[TILE_ROWS + 40], [3, TILE_ROWS, 5], [TILE_ROWS - 1, 7, 300]])
def test_tiles_cut_prompts_but_not_attention(lens: list[int]) -> None:
    """A prompt that passes in several tiles attends to what the earlier ones wrote."""
    size, heads, dim = 16, 2, 8
    spec = AttentionSpec(num_heads=heads, num_kv_heads=heads, scale=dim**-0.5)
    counts = [-(-n // size) for n in lens]
    tables = [list(range(sum(counts[:i]), sum(counts[: i + 1]))) for i in range(len(lens))]
    meta = AttentionMetadata(
        query_lens=lens, kv_lens=lens, block_tables=tables, num_decodes=0, block_size=size, device=CPU
    )
    slots = torch.tensor(
        [table[p // size] * size + p % size for table, n in zip(tables, lens, strict=True) for p in range(n)]
    )

    def make(x: Any, k_cache: torch.Tensor, v_cache: torch.Tensor, given: Any) -> Any:
        q, k, v = x.view(x.shape[0], 3, heads, dim).unbind(1)
        ops.write_kv(k, v, k_cache, v_cache, slots)
        return ops.paged_attention(q, k_cache, v_cache, given, spec).flatten(1)

    def caches() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(sum(counts), size, heads, dim), torch.zeros(sum(counts), size, heads, dim)

    x = torch.randn(sum(lens), 3 * heads * dim, generator=torch.Generator().manual_seed(0))
    recorder = Recorder()
    program = NativeProgram(recorder, make(recorder.external(3 * heads * dim, EXTERNAL_INPUT), *caches(), "self"))
    ours = torch.full((sum(lens), heads * dim), torch.nan)
    program.run(sum(lens), input=x, output=ours, slots=slots, attention=meta)
    torch.testing.assert_close(ours, make(x, *caches(), meta), atol=1e-5, rtol=1e-5)


def test_the_time_of_each_operation() -> None:
    program, _, _ = both(lambda x: ops.activate(ops.rms_norm(x, torch.ones(13), 1e-5), "relu"), 13)
    assert program.profile(True) == []
    run(program, torch.randn(3, 13))
    assert len(program.profile(False)) == len(program.names) == 2


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x if x else x * 2.0,
        lambda x: x + torch.randn(3, 13),
        lambda x: x[0],
        lambda x: x.view(7, -1),
        lambda x: ops.linear(x, torch.randn(4, 13), None),
    ],
)
def test_what_cannot_be_recorded_says_so(forward: Any) -> None:
    with pytest.raises(TraceError):
        forward(Recorder().external(13, EXTERNAL_INPUT))
