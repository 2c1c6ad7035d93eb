"""Records a model's forward pass as a list of operations, by running it on ``Traced`` values instead of tensors.

Models and layers are written over tensors and ``kernels.ops``. Given traced inputs, ``ops`` hands its calls to the
recorder, and the few things that layers do with tensors themselves (add, multiply, reshape, take apart) are done by
``Traced``. What neither knows raises ``TraceError``; such a model runs without a program.
"""

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from segue.kernels.metadata import AttentionSpec
from segue.kernels.scaled_cache import CacheTensor

__all__ = ["ROWS", "Op", "Recorder", "TraceError", "Traced", "TracedIds", "Value", "View"]


class TraceError(Exception):
    """The forward pass does something that a program cannot."""


class _Rows:
    """The number of rows of a traced value: whatever a run has."""

    def __repr__(self) -> str:
        return "ROWS"


ROWS: Final = _Rows()


@dataclass(slots=True, eq=False)
class Value:
    """Floats [rows, width] that an operation gives."""

    width: int
    is_exact: bool = False
    """The rows follow each other without a gap."""
    external: int | None = None
    """Not in the arena: one of the program's inputs or outputs."""


@dataclass(frozen=True, slots=True)
class View:
    """Columns [column, column + width) of a value."""

    value: Value
    column: int
    width: int

    @property
    def is_whole(self) -> bool:
        return self.column == 0 and self.width == self.value.width


@dataclass(slots=True, eq=False)
class Op:
    """``kind`` names a method of the native program; ``reads`` and ``out`` are its places, ``given`` the rest."""

    kind: str
    reads: dict[str, View]
    out: View | None
    given: dict[str, Any] = field(default_factory=dict)
    in_place: str | None = None
    """The one of ``reads`` that it also writes."""


@dataclass(frozen=True, slots=True)
class TracedIds:
    """Token ids or positions, plus ``offset``."""

    kind: str
    recorder: "Recorder"
    offset: int = 0

    def __add__(self, offset: int) -> "TracedIds":
        return TracedIds(self.kind, self.recorder, self.offset + offset)


class Traced:
    """A float32 tensor [ROWS, *dims] that is not there yet; its rows' numbers lie side by side."""

    __slots__ = ("column", "dims", "recorder", "value")

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, recorder: "Recorder", value: Value, dims: tuple[int, ...], column: int = 0) -> None:
        self.recorder, self.value, self.dims, self.column = recorder, value, dims, column

    @property
    def shape(self) -> tuple[Any, ...]:
        return (ROWS, *self.dims)

    @property
    def width(self) -> int:
        return math.prod(self.dims)

    @property
    def view_(self) -> View:
        return View(self.value, self.column, self.width)

    def view(self, rows: object, *dims: int) -> "Traced":
        if rows is not ROWS:
            raise TraceError(f"view of {self.shape} as {(rows, *dims)}")
        if -1 in dims:
            rest = -math.prod(dims)
            dims = tuple(self.width // rest if dim == -1 else dim for dim in dims)
        if math.prod(dims) != self.width:
            raise TraceError(f"view of {self.shape} as {(rows, *dims)}")
        return Traced(self.recorder, self.value, dims, self.column)

    def flatten(self, start: int) -> "Traced":
        if start != 1:
            raise TraceError(f"flatten from {start}")
        return self.view(ROWS, self.width)

    def unbind(self, dim: int) -> tuple["Traced", ...]:
        if dim != 1:
            raise TraceError(f"unbind of {dim}")
        return tuple(Traced(self.recorder, self.value, self.dims[1:], start) for start in self._starts())

    def _starts(self) -> range:
        each = math.prod(self.dims[1:])
        return range(self.column, self.column + self.width, each)

    def split(self, sizes: Seq[int], dim: int) -> tuple["Traced", ...]:
        if len(self.dims) != 1 or dim not in (-1, 1) or sum(sizes) != self.width:
            raise TraceError(f"split of {self.shape} into {sizes}")
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return tuple(self[:, start : start + size] for start, size in zip(starts, sizes, strict=True))

    def __getitem__(self, index: tuple[slice, slice]) -> "Traced":
        match index:
            case (slice(start=None, stop=None, step=None), slice(start=start, stop=stop, step=None)):
                first, end, _ = slice(start, stop).indices(self.dims[0])
                each = math.prod(self.dims[1:])
                return Traced(self.recorder, self.value, (end - first, *self.dims[1:]), self.column + first * each)
        raise TraceError(f"index {index}")

    def to(self, dtype: torch.dtype) -> "Traced":
        """Itself: what is computed stays float32."""
        return self

    def __add__(self, other: "Traced | Tensor") -> "Traced":
        return self.recorder.binary("add", self, other)

    def __mul__(self, other: "Traced | Tensor | float") -> "Traced":
        if isinstance(other, float | int):
            return self.recorder.activate(self, "none", scale=float(other))
        return self.recorder.binary("multiply", self, other)

    def __bool__(self) -> bool:
        raise TraceError("a decision that depends on a value")


class Recorder:
    """Collects operations in the order in which they are to run."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def ids(self, kind: str) -> TracedIds:
        return TracedIds(kind, self)

    def external(self, width: int, place: int) -> Traced:
        return Traced(self, Value(width, external=place), (width,))

    def add(self, kind: str, reads: dict[str, Traced | None], width: int, **given: Any) -> Traced:
        """An operation whose result is [ROWS, width]."""
        value = Value(width)
        views = {name: traced.view_ for name, traced in reads.items() if traced is not None}
        self.ops.append(Op(kind, views, View(value, 0, width), given))
        return Traced(self, value, (width,))

    def add_in_place(self, kind: str, name: str, reads: dict[str, Traced], **given: Any) -> Traced:
        views = {key: traced.view_ for key, traced in reads.items()}
        self.ops.append(Op(kind, views, None, given, in_place=name))
        return reads[name]

    def binary(self, op: str, a: Traced, b: Traced | Tensor) -> Traced:
        if isinstance(b, Traced):
            if a.dims != b.dims:
                raise TraceError(f"{op} of {a.shape} and {b.shape}")
            made = self.add("binary", {"a": a, "b": b}, a.width, op=op)
        elif isinstance(b, Tensor) and b.shape == (a.width,):
            made = self.add("binary", {"a": a}, a.width, op=op, constant=b.float().contiguous())
        else:
            raise TraceError(f"{op} of {a.shape} and {type(b).__name__}")
        return made.view(ROWS, *a.dims)

    def activate(self, x: Traced, name: str, *, scale: float = 1.0, soft_cap: float = 0.0) -> Traced:
        made = self.add("activate", {"x": x}, x.width, activation=name, scale=scale, soft_cap=soft_cap)
        return made.view(ROWS, *x.dims)

    def linear(self, x: Traced, weight: object, activation: str) -> Any:
        if not hasattr(weight, "num_outputs"):
            raise TraceError(f"a product with a {type(weight).__name__}")
        return self.add("linear", {"x": x}, weight.num_outputs, weight=weight, activation=activation)

    def embedding(self, ids: TracedIds, table: Tensor) -> Any:
        return self.add("embed", {}, table.shape[1], ids=ids.kind, offset=ids.offset, table=table.detach())

    def norm(
        self, x: Traced, dim: int, weight: Tensor | None, bias: Tensor | None, eps: float, *, centered: bool
    ) -> Any:
        if x.dims[-1] != dim:
            raise TraceError(f"a norm over {dim} of {x.shape}")
        made = self.add(
            "norm", {"x": x}, x.width, dim=dim, weight=_floats(weight), bias=_floats(bias), eps=eps, centered=centered
        )
        return made.view(ROWS, *x.dims)

    def angles(self, inverse: Seq[float], long_inverse: Seq[float], factor: float, long_factor: float) -> Traced:
        """cos and sin of every position's angles, which ``rotate`` reads."""
        made = self.add(
            "angles",
            {},
            2 * len(inverse),
            inverse=list(inverse),
            long_inverse=list(long_inverse),
            factor=factor,
            long_factor=long_factor,
        )
        made.value.is_exact = True
        return made

    def rotate(self, x: Traced, angles: Traced, *, interleaved: bool) -> Traced:
        """In place: nothing reads what was there before."""
        reads = {"x": x, "angles": angles}
        return self.add_in_place("rotate", "x", reads, head_dim=x.dims[-1], interleaved=interleaved)

    def write(self, k: Traced, v: Traced, k_cache: CacheTensor, v_cache: CacheTensor) -> None:
        views = {"keys": k.view_, "values": v.view_}
        self.ops.append(Op("write", views, None, {"caches": (k_cache, v_cache)}))

    def paged_attention(
        self, q: Traced, k_cache: CacheTensor, v_cache: CacheTensor, what: object, spec: AttentionSpec
    ) -> Any:
        """``what``: "self" or "cross", which stands for the metadata in a traced context."""
        return self._attend({"q": q}, what, spec, (k_cache, v_cache), v_cache.shape[-1])

    def varlen_attention(self, q: Traced, k: Traced, v: Traced, spec: AttentionSpec) -> Any:
        return self._attend({"q": q, "k": k, "v": v}, "packed", spec, None, v.dims[-1])

    def _attend(
        self,
        reads: dict[str, Traced | None],
        what: object,
        spec: AttentionSpec,
        caches: tuple[CacheTensor, CacheTensor] | None,
        value_dim: int,
    ) -> Traced:
        q = reads["q"]
        assert q is not None
        if q.dims[0] != spec.num_heads:
            raise TraceError(f"queries {q.shape} for {spec.num_heads} heads")
        dims = (q.dims[-1], value_dim)
        made = self.add("attend", reads, spec.num_heads * value_dim, what=what, spec=spec, caches=caches, dims=dims)
        return made.view(ROWS, spec.num_heads, value_dim)


def _floats(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().contiguous()
