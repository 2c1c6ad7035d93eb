"""Logprobs of what was chosen, of the alternatives, and of a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.core.errors import GenerationError
from segue.sampling.row import SamplingRow
from segue.sampling.transfer import to_device

__all__ = ["TopTokens", "prompt_logprobs"]

_TIES = 8
"""Places for ids tied with the n-th that come back with the rest; more ties than this cost one more transfer."""


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The rows that asked for alternatives, and their best ids on the device."""

    asked: tuple[int, ...]
    logprobs: Tensor
    """[num_asked, vocab]"""
    floor: Tensor
    """[num_asked, 1]: the n-th largest logprob, or the smallest finite number if that is ``-inf``."""
    width: int

    @classmethod
    def of(cls, logprobs: Tensor, rows: Sequence[SamplingRow]) -> "TopTokens | None":
        """``logprobs``: [num_rows, vocab]. None: nobody asked."""
        counts = [row.params.top_n_tokens for row in rows]
        asked = tuple(i for i, count in enumerate(counts) if count > 0)
        if not asked:
            return None
        vocab_size = logprobs.shape[-1]
        wanted = [min(counts[i], vocab_size) for i in asked]
        if len(asked) < len(rows):
            logprobs = logprobs.index_select(0, to_device(asked, torch.int64, logprobs.device))
        last = to_device([count - 1 for count in wanted], torch.int64, logprobs.device).unsqueeze(-1)
        floor = logprobs.topk(max(wanted)).values.gather(-1, last).clamp_(min=torch.finfo(logprobs.dtype).min)
        return cls(asked, logprobs, floor, min(max(wanted) + _TIES, vocab_size))

    def pack(self) -> Tensor:
        """[num_asked, 1 + 2 * width] float64: how many belong, then ids, then logprobs, best first."""
        values, ids = self.logprobs.topk(self.width)
        count = (self.logprobs >= self.floor).sum(-1, keepdim=True)
        return torch.cat([count.to(torch.float64), ids.to(torch.float64), values.to(torch.float64)], dim=-1)

    def unpack(self, packed: Sequence[Sequence[float]]) -> dict[int, tuple[tuple[int, float], ...]]:
        """``pack()`` as lists → row → (id, logprob), best first, the lower id first among equals."""
        return {row: self._ranked(i, packed[i]) for i, row in enumerate(self.asked)}

    def _ranked(self, i: int, packed: Sequence[float]) -> tuple[tuple[int, float], ...]:
        count = int(packed[0])
        if count <= self.width:
            ids, values = packed[1 : 1 + count], packed[1 + self.width : 1 + self.width + count]
        else:
            found = (self.logprobs[i] >= self.floor[i]).nonzero().squeeze(-1)
            ids, values = found.tolist(), self.logprobs[i, found].tolist()
        ranked = sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))
        return tuple((int(token_id), value) for token_id, value in ranked)


@torch.inference_mode()
def prompt_logprobs(logits: Tensor, target_ids: Sequence[int]) -> list[float]:
    """``logits``: [num_tokens, vocab], raw, any float dtype; ``target_ids[i]``: the token that followed row i.

    Returns ``log_softmax(logits[i])[target_ids[i]]``. Rows are independent: a long prompt may come in
    chunks, which bounds the memory. One transfer back. Raises ``GenerationError`` if a row has no distribution (NaN or
    +inf in it, or only -inf).
    """
    assert logits.shape[0] == len(target_ids), (logits.shape, len(target_ids))
    if not target_ids:
        return []
    targets = to_device(target_ids, torch.int64, logits.device).unsqueeze(-1)
    logprobs = logits.to(torch.float32).log_softmax(-1)
    values: list[float] = logprobs.gather(-1, targets).squeeze(-1).tolist()
    for i, value in enumerate(values):
        if value != value:
            raise GenerationError(f"row {i} of the prompt's logits is not a distribution")
    return values
