from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.sampling.grammar import GrammarStates
from segue.sampling.row import SamplingRow
from segue.sampling.transfer import move, to_device

__all__ = ["GrammarMask"]


@dataclass(frozen=True, slots=True)
class GrammarColumns:
    rows: tuple[int, ...]
    masks: Tensor
    """[num_asked, words] int32 on the CPU."""
    num_rows: int


class GrammarMask:
    """Tokens that the grammar does not allow here get ``-inf``."""

    greedy_safe = False

    def __init__(self, vocab_size: int, states: GrammarStates | None) -> None:
        self.vocab_size = vocab_size
        self._states = states

    def columns(self, rows: Sequence[SamplingRow]) -> GrammarColumns | None:
        asked = tuple(i for i, row in enumerate(rows) if row.params.grammar is not None)
        if not asked:
            return None
        assert self._states is not None, "the engine refuses grammars where there is no compiler"
        return GrammarColumns(asked, self._states.masks([rows[i] for i in asked]), len(rows))

    def apply(self, logits: Tensor, columns: GrammarColumns) -> Tensor:
        masks = move(columns.masks, logits.device)
        bits = torch.arange(32, dtype=torch.int32, device=logits.device)
        is_barred = (masks.unsqueeze(-1) >> bits).bitwise_and_(1).eq_(0).flatten(1)[:, : self.vocab_size].bool()
        if len(columns.rows) == columns.num_rows:
            return logits.masked_fill_(is_barred, -torch.inf)
        index = to_device(columns.rows, torch.int64, logits.device)
        part = logits.index_select(0, index).masked_fill_(is_barred, -torch.inf)
        return logits.index_copy_(0, index, part)
