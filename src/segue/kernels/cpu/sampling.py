"""Top-k, top-p and the choice of ids in C++, on CPU logits: the checked side of ``_native``'s.

They give what ``segue.sampling`` computes by PyTorch's operators, on whole numbers likewise; only an exponential's last
bit may be another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.kernels import cpu

__all__ = ["Chosen", "can_run", "choose", "keep_top_k", "keep_top_p", "keep_typical", "likeliest", "peaks"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """One of each for a row."""

    ids: list[int]
    logprobs: list[float]
    """NaN where a row has no finite peak."""
    peaks: list[float]
    """NaN for a row that holds one."""
    log_totals: list[float]
    """A logit's logprob is ``(logit - peak) - log_total``, in float32."""


def can_run(logits: Tensor) -> bool:
    """``logits`` [num_rows, vocab]: not empty, float32 on the CPU, each row's numbers side by side."""
    return (
        logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and logits.numel() > 0
        and logits.stride(1) == 1
        and cpu.is_available()
    )


def choose(logits: Tensor, uniforms: Sequence[float]) -> Chosen:
    """The id of the largest logit (the first of several) for a row whose uniform is negative, else the drawn one.

    ``uniforms``: one a row, below 1.
    """
    from segue.kernels.cpu import _native

    assert can_run(logits), (logits.dtype, logits.shape, logits.stride())
    assert len(uniforms) == logits.shape[0], (len(uniforms), logits.shape)
    found = _native.choose(logits.data_ptr(), logits.stride(0), logits.shape[1], list(uniforms))
    ids, logprobs, peaks, log_totals = (list(column) for column in zip(*found, strict=True))
    return Chosen(ids, logprobs, peaks, log_totals)


def likeliest(logits: Tensor, counts: Sequence[int], chosen: Chosen) -> list[tuple[tuple[int, float], ...]]:
    """(id, logprob) of the ``counts[i]`` likeliest of each row, from which ``chosen`` came; none for 0.

    The best first, the lower id first among equals; with ties at the end more, and never one without probability.
    """
    from segue.kernels.cpu import _native

    assert can_run(logits), (logits.dtype, logits.shape, logits.stride())
    assert len(counts) == logits.shape[0], (len(counts), logits.shape)
    if not any(counts):
        return [()] * len(counts)
    rows = list(zip(chosen.ids, chosen.logprobs, chosen.peaks, chosen.log_totals, strict=True))
    found = _native.likeliest(logits.data_ptr(), logits.stride(0), logits.shape[1], list(counts), rows)
    return [tuple(each) for each in found]


def peaks(logits: Tensor) -> list[float]:
    """The largest of each row; NaN for a row that holds one."""
    from segue.kernels.cpu import _native

    assert can_run(logits), (logits.dtype, logits.shape, logits.stride())
    return _native.peaks(logits.data_ptr(), logits.stride(0), logits.shape[1], logits.shape[0])


def keep_top_k(logits: Tensor, rows: Sequence[int], limits: Sequence[int]) -> None:
    """In place: row ``rows[i]`` keeps what is at least its ``limits[i]``-th largest; limits from 1 to vocab."""
    from segue.kernels.cpu import _native

    assert can_run(logits), (logits.dtype, logits.shape, logits.stride())
    assert all(0 < limit <= logits.shape[1] for limit in limits), limits
    _native.keep_top_k(logits.data_ptr(), logits.stride(0), logits.shape[1], list(rows), list(limits))


def keep_top_p(logits: Tensor, rows: Sequence[int], shares: Sequence[float]) -> None:
    """In place: row ``rows[i]`` keeps the fewest ids that hold ``shares[i]`` of its mass; of equal ones the higher."""
    from segue.kernels.cpu import _native

    assert can_run(logits), (logits.dtype, logits.shape, logits.stride())
    _native.keep_top_p(logits.data_ptr(), logits.stride(0), logits.shape[1], list(rows), list(shares))


def keep_typical(logits: Tensor, rows: Sequence[int], shares: Sequence[float]) -> None:
    """In place: row ``rows[i]`` keeps as few ids as hold ``shares[i]``, nearest to its mean surprise, and ties."""
    from segue.kernels.cpu import _native

    assert can_run(logits), (logits.dtype, logits.shape, logits.stride())
    _native.keep_typical(logits.data_ptr(), logits.stride(0), logits.shape[1], list(rows), list(shares))
