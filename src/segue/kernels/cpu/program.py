"""From recorded operations to a native program: buffers for the values, then one call of the module each operation."""

from collections.abc import Sequence as Seq
from typing import Any

import torch
from torch import Tensor

from segue.kernels.cpu import _native
from segue.kernels.cpu.attention import distance_bias, native_cache, native_sequences, native_spec
from segue.kernels.cpu.fusion import fused
from segue.kernels.cpu.recorder import Op, Recorder, Traced, Value, View
from segue.kernels.metadata import AttentionMetadata, AttentionSpec
from segue.kernels.scaled_cache import CacheTensor

__all__ = ["NativeProgram"]

EXTERNAL_INPUT = _native.EXTERNAL_INPUT
EXTERNAL_OUTPUT = _native.EXTERNAL_OUTPUT

IDS = {"tokens": 0, "positions": 1}
BINARIES = {"add": 0, "multiply": 1}
ATTENDS = {"self": 0, "cross": 1, "packed": 2}
KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

OF_ROWS = {"linear", "norm", "rotate", "binary", "activate", "attend"}
"""Operations that ask no more of a step than the rows that they are given and where their sequences' keys are."""

LANES = 16
"""Buffers' rows are multiples of a vector."""

TILE_ROWS = 264
"""Rows that pass through all layers together: enough that reading the weights again costs little, few enough that the
buffers stay in the last cache. A multiple of the rows of a product's tile (12, 6, 4) and of attention's strip (24)."""


NO_SEQUENCES = (0, 0, 0, 0, 0)


class NativeProgram:
    """One forward pass, ready to run. Keeps alive what it reads: weights, tables, caches."""

    def __init__(self, recorder: Recorder, result: Traced | None, *, whole_sequences: bool = False) -> None:
        """``result``: what ``run`` writes out, whole; None where the pass only fills caches.

        ``whole_sequences``: no sequence is computed in two pieces (an encoder attends to what comes after).
        """
        self.width = 0
        results: list[Value] = []
        if result is not None:
            result.value.external = EXTERNAL_OUTPUT
            self.width = result.value.width
            results = [result.value]
        ops = fused(recorder.ops, results)
        self._kept: list[Any] = []
        self._buffers, widths = _buffers(ops)
        self._native = _native.Program(widths, TILE_ROWS, whole_sequences)
        self.names: list[str] = []
        start = _narrowing(ops)
        self.narrows = start is not None
        """Whether ``run`` can leave out rows that nobody wants."""
        for index, op in enumerate(ops):
            if index == start:
                self._native.narrow(sorted({self._buffers[value] for value in _live(ops, index)}))
            getattr(self, f"_{op.kind}")(op)
            self.names.append(op.kind)

    def run(
        self,
        rows: int,
        *,
        output: Tensor | None = None,
        tokens: Tensor | None = None,
        positions: Tensor | None = None,
        is_long: Tensor | None = None,
        slots: Tensor | None = None,
        attention: AttentionMetadata | None = None,
        cross_attention: AttentionMetadata | None = None,
        input: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> None:
        """``tokens``, ``positions``, ``slots`` [rows] int64; ``output`` [rows, width], ``input`` float32.

        ``wanted`` [sequences] int64, where the program ``narrows``: ``output`` is to hold so many last rows of each.
        """
        assert wanted is None or self.narrows
        self._native.run(
            rows=rows,
            tokens=_address(tokens),
            positions=_address(positions),
            is_long=_address(is_long),
            slots=_address(slots),
            self_attention=NO_SEQUENCES if attention is None else native_sequences(attention),
            cross_attention=NO_SEQUENCES if cross_attention is None else native_sequences(cross_attention),
            input=_address(input),
            input_stride=0 if input is None else input.stride(0),
            output=_address(output),
            output_stride=0 if output is None else output.stride(0),
            wanted=_address(wanted),
        )

    @property
    def native(self) -> _native.Program:
        """Valid as long as this program lives."""
        return self._native

    def profile(self, on: bool) -> list[float]:
        """Seconds spent in each of ``names`` since this was last asked; measures from here on if ``on``."""
        times: list[float] = self._native.take_times()
        self._native.profiling = on
        return times

    def _place(self, view: View | None) -> tuple[int, int] | None:
        if view is None:
            return None
        value = view.value
        return (self._buffers[value] if value.external is None else value.external, view.column)

    def _keep(self, tensor: Tensor | None) -> int:
        """The address of a tensor that this program keeps."""
        self._kept.append(tensor)
        return _address(tensor)

    def _linear(self, op: Op) -> None:
        self._native.linear(
            weight=op.given["weight"],
            x=self._place(op.reads["x"]),
            out=self._place(op.out),
            residual=self._place(op.reads.get("residual")),
            activation=op.given["activation"],
        )

    def _embed(self, op: Op) -> None:
        table = op.given["table"]
        self._native.embed(
            ids=IDS[op.given["ids"]],
            table=self._keep(table),
            kind=KINDS[table.dtype],
            num_embeddings=table.shape[0],
            dim=table.shape[1],
            offset=op.given["offset"],
            out=self._place(op.out),
        )

    def _norm(self, op: Op) -> None:
        dim = op.given["dim"]
        self._native.norm(
            x=self._place(op.reads["x"]),
            out=self._place(op.out),
            groups=op.reads["x"].width // dim,
            dim=dim,
            weight=self._keep(op.given["weight"]),
            bias=self._keep(op.given["bias"]),
            eps=op.given["eps"],
            centered=op.given["centered"],
        )

    def _angles(self, op: Op) -> None:
        self._native.angles(
            inverse=op.given["inverse"],
            long_inverse=op.given["long_inverse"],
            factor=op.given["factor"],
            long_factor=op.given["long_factor"],
            out=self._place(op.out),
        )

    def _rotate(self, op: Op) -> None:
        head_dim = op.given["head_dim"]
        self._native.rotate(
            x=self._place(op.reads["x"]),
            angles=self._place(op.reads["angles"]),
            heads=op.reads["x"].width // head_dim,
            head_dim=head_dim,
            pairs=op.reads["angles"].width // 2,
            interleaved=op.given["interleaved"],
        )

    def _binary(self, op: Op) -> None:
        self._native.binary(
            op=BINARIES[op.given["op"]],
            dim=op.reads["a"].width,
            a=self._place(op.reads["a"]),
            b=self._place(op.reads.get("b")),
            constant=self._keep(op.given.get("constant")),
            out=self._place(op.out),
        )

    def _activate(self, op: Op) -> None:
        self._native.activate(
            activation=op.given["activation"],
            dim=op.reads["x"].width,
            scale=op.given["scale"],
            soft_cap=op.given["soft_cap"],
            x=self._place(op.reads["x"]),
            multiplied=self._place(op.reads.get("multiplied")),
            out=self._place(op.out),
        )

    def _write(self, op: Op) -> None:
        keys, values = op.given["caches"]
        self._native.write(
            cache=self._cache(keys, values),
            keys=self._place(op.reads["keys"]),
            values=self._place(op.reads["values"]),
        )

    def _attend(self, op: Op) -> None:
        caches = op.given["caches"]
        self._native.attend(
            what=ATTENDS[op.given["what"]],
            spec=self._spec(op.given["spec"], *op.given["dims"]),
            cache=None if caches is None else self._cache(*caches),
            q=self._place(op.reads["q"]),
            k=self._place(op.reads.get("k")),
            v=self._place(op.reads.get("v")),
            out=self._place(op.out),
        )

    def _cache(self, keys: CacheTensor, values: CacheTensor) -> _native.Cache:
        self._kept += [keys, values]
        return native_cache(keys, values)

    def _spec(self, spec: AttentionSpec, key_dim: int, value_dim: int) -> _native.AttentionSpec:
        bias = None if spec.relative_bias is None else distance_bias(spec.relative_bias)
        native, kept = native_spec(spec, key_dim, value_dim, bias)
        self._kept += kept
        return native


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _narrowing(ops: Seq[Op]) -> int | None:
    """Where the last layer has written its keys: what comes after serves each row's own output only."""
    last = max((index for index, op in enumerate(ops) if op.kind == "write"), default=len(ops))
    rest = ops[last + 1 :]
    is_of_rows = all(
        op.kind in OF_ROWS and all(view.value.external is None for view in op.reads.values()) for op in rest
    )
    return last + 1 if rest and is_of_rows else None


def _live(ops: Seq[Op], start: int) -> set[Value]:
    """What operations from ``start`` on read of those before."""
    made = {op.out.value for op in ops[:start] if op.out is not None}
    return {view.value for op in ops[start:] for view in op.reads.values()} & made


def _buffers(ops: Seq[Op]) -> tuple[dict[Value, int], list[int]]:
    """A buffer for every value of the arena, used again once the value has been read for the last time; widths."""
    last: dict[Value, int] = {}
    for index, op in enumerate(ops):
        for view in op.reads.values():
            last[view.value] = index
    widths: list[int] = []
    chosen: dict[Value, int] = {}
    free: list[int] = []
    for index, op in enumerate(ops):
        if op.out is not None and op.out.value.external is None:
            value = op.out.value
            width = value.width if value.is_exact else -(-value.width // LANES) * LANES
            found = next((buffer for buffer in free if widths[buffer] == width), None)
            if found is None:
                found = len(widths)
                widths.append(width)
            else:
                free.remove(found)
            chosen[value] = found
            if value not in last:
                free.append(found)
        for value in {view.value for view in op.reads.values()}:
            if last[value] == index and value.external is None:
                free.append(chosen[value])
    return chosen, widths
