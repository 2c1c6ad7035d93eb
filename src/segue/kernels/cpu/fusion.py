"""Makes one operation of several, where the native kernels can: a product with what follows it."""

from dataclasses import replace

from segue.kernels.cpu.recorder import Op, Value

__all__ = ["fused"]


def fused(ops: list[Op], results: list[Value]) -> list[Op]:
    """The same values from fewer operations. ``results`` are read after the last one."""
    ops = list(ops)
    index = 0
    while index < len(ops):
        reader = _only_reader(ops, index, results)
        if reader is None or (merged := _merge(ops, index, reader)) is None:
            index += 1
        else:
            ops[reader] = merged
            del ops[index]
            index = max(0, index - 1)
    return ops


def _only_reader(ops: list[Op], index: int, results: list[Value]) -> int | None:
    """The one operation that reads what ``ops[index]`` gives, all of it."""
    out = ops[index].out
    if out is None or out.value in results:
        return None
    readers = [
        (i, view) for i, op in enumerate(ops) if i != index for view in op.reads.values() if view.value is out.value
    ]
    if len(readers) != 1 or not readers[0][1].is_whole or ops[readers[0][0]].in_place is not None:
        return None
    return readers[0][0]


def _merge(ops: list[Op], index: int, reader: int) -> Op | None:
    """``ops[index]`` and its reader as one, to stand where the reader is; None where that cannot be."""
    first, second = ops[index], ops[reader]
    if any(op.in_place is not None and _overlaps(first, op) for op in ops[index + 1 : reader]):
        return None
    if first.kind == "linear" and second.kind == "activate":
        return _with_activation(first, second)
    if first.kind == "linear" and second.kind == "binary" and second.given["op"] == "add":
        return _with_residual(first, second)
    if first.kind == "activate" and second.kind == "binary" and second.given["op"] == "multiply":
        return _with_factor(first, second)
    return None


def _overlaps(op: Op, writer: Op) -> bool:
    written = writer.reads[writer.in_place or ""].value
    return any(view.value is written for view in op.reads.values())


def _with_activation(linear: Op, activate: Op) -> Op | None:
    plain = activate.given["scale"] == 1.0 and not activate.given["soft_cap"] and "multiplied" not in activate.reads
    if not plain or linear.given["activation"] != "none" or "residual" in linear.reads:
        return None
    return Op("linear", linear.reads, activate.out, {**linear.given, "activation": activate.given["activation"]})


def _with_residual(linear: Op, add: Op) -> Op | None:
    if "residual" in linear.reads or "b" not in add.reads:
        return None
    assert linear.out is not None
    other = add.reads["b"] if add.reads["a"].value is linear.out.value else add.reads["a"]
    return Op("linear", {**linear.reads, "residual": other}, add.out, linear.given)


def _with_factor(activate: Op, multiply: Op) -> Op | None:
    if "multiplied" in activate.reads or "b" not in multiply.reads:
        return None
    assert activate.out is not None
    other = multiply.reads["b"] if multiply.reads["a"].value is activate.out.value else multiply.reads["a"]
    return replace(activate, reads={**activate.reads, "multiplied": other}, out=multiply.out)
