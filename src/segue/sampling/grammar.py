"""Where each sequence is in its grammar: masks before the choice, forced tokens after it.

The state is kept by sequence, but nothing depends on that it is kept: whatever is found is compared with the
sequence's history, and what is missing is replayed from there. So preemption, an abort or a step that is run again
need no word to it.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from llguidance import LLExecutor, LLMatcher
from torch import Tensor

from segue.core.grammar import Grammar, fault_text
from segue.sampling.grammar_compiler import GrammarCompiler
from segue.sampling.row import SamplingRow

__all__ = ["GrammarStates"]

MIN_STATES = 64
"""States kept of sequences that are not in the present step, at least."""


@dataclass(slots=True)
class _State:
    grammar: Grammar
    matcher: LLMatcher
    consumed: list[int] = field(default_factory=list)
    """The output tokens that the matcher has seen."""
    is_complete: bool = False
    """An end token came, and the sequence goes on all the same (``ignore_eos``): nothing is masked any more."""

    def go_back_to(self, output: list[int]) -> bool:
        """Undo what ``output`` does not begin with. False: it cannot be undone."""
        num_surplus = len(self.consumed) - _num_common(self.consumed, output)
        if num_surplus == 0:
            return True
        if self.matcher.is_error() or not self.matcher.rollback(num_surplus):
            return False
        del self.consumed[-num_surplus:]
        return True


class GrammarStates:
    """The matchers of the sequences that follow a grammar."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler
        self._states: OrderedDict[int, _State] = OrderedDict()
        """By ``seq_id``, the least recently used first."""
        self._executor: LLExecutor | None = None

    def masks(self, rows: Sequence[SamplingRow]) -> Tensor:
        """[len(rows), words] int32 on the CPU; bit ``i % 32`` of word ``i // 32`` is set where token ``i`` may follow.

        Every row has a grammar; those of one sequence, after each of its guesses, follow each other. Where the grammar
        leaves no choice, only the token that spells it best is allowed. A row whose grammar has failed allows nothing;
        ``error`` says why.
        """
        masks = torch.full((len(rows), self._compiler.num_mask_words), -1, dtype=torch.int32)
        places = _places(rows)
        while places:
            self._fill_masks(masks, [(i, rows[i]) for i, _ in places])
            # A guess that the grammar does not allow is not chosen: what stands behind it is never asked for.
            places = [(i + 1, end) for i, end in places if i + 1 < end and _allows(masks[i], rows[i + 1].history[-1])]
        while len(self._states) > max(MIN_STATES, 2 * len(rows)):
            self._states.popitem(last=False)
        return masks

    def forced_after(self, row: SamplingRow, token_id: int) -> tuple[int, ...]:
        """The tokens that can only follow ``token_id``, which was chosen for ``row``: up to the end token of a text
        that is complete, or to where the grammar next leaves a choice."""
        state = self._at(row)
        if state.is_complete:
            return ()
        eos_token_ids = self._compiler.eos_token_ids
        if token_id in eos_token_ids:
            self._states.pop(row.seq_id, None)
            return ()
        state.consumed.append(token_id)
        state.matcher.consume_token(token_id)
        forced: list[int] = state.matcher.compute_ff_tokens()
        if forced:
            state.consumed += forced
            state.matcher.consume_tokens(forced)
        if state.matcher.is_stopped() and not state.matcher.is_error() and not row.params.ignore_eos:
            self._states.pop(row.seq_id, None)
            forced = [*forced, eos_token_ids[0]]
        return tuple(forced)

    def error(self, row: SamplingRow) -> str | None:
        """Why the grammar of ``row`` cannot go on; None: it can."""
        state = self._states.get(row.seq_id)
        if state is None or not state.matcher.is_error():
            return None
        return "grammar: " + fault_text(state.matcher.get_error())

    def _at(self, row: SamplingRow) -> _State:
        """The state of ``row`` after its history: it goes on with what is new, and back over guesses that failed."""
        grammar, output = row.params.grammar, list(row.history[row.num_prompt_tokens :])
        assert grammar is not None
        state = self._states.get(row.seq_id)
        if state is None or state.grammar != grammar or not state.go_back_to(output):
            compiled = self._compiler.prepare(grammar)
            assert compiled.is_ready, "the scheduler held the sequence until its grammar was compiled"
            state = self._states[row.seq_id] = _State(grammar, compiled.matcher())
        self._states.move_to_end(row.seq_id)
        fresh = output[len(state.consumed) :]
        end = next((i for i, token_id in enumerate(fresh) if token_id in self._compiler.eos_token_ids), None)
        state.is_complete = end is not None
        fresh = fresh[:end]
        if fresh:
            state.consumed += fresh
            state.matcher.consume_tokens(fresh)
        return state

    def _fill_masks(self, masks: Tensor, rows: Sequence[tuple[int, SamplingRow]]) -> None:
        """``rows``: (place in ``masks``, row), of different sequences."""
        wanted: list[tuple[LLMatcher, int]] = []
        for i, row in rows:
            state = self._at(row)
            if state.is_complete:
                continue
            if state.matcher.is_error():
                masks[i] = 0
                continue
            forced = state.matcher.compute_ff_tokens()
            if forced:
                _allow_only(masks[i], forced[0])
            else:
                wanted.append((state.matcher, i))
        num_bytes = masks.shape[1] * masks.element_size()
        if len(wanted) == 1:
            [(matcher, i)] = wanted
            matcher.unsafe_compute_mask_ptr(masks[i].data_ptr(), num_bytes)
        elif wanted:
            self._executor = self._executor or LLExecutor()
            self._executor.unsafe_compute_mask_ptr(wanted, masks.data_ptr(), num_bytes, len(masks))
        for matcher, i in wanted:
            if matcher.is_error():
                masks[i] = 0


def _places(rows: Sequence[SamplingRow]) -> list[tuple[int, int]]:
    """(first row, row after the last) of each sequence."""
    starts = [i for i, row in enumerate(rows) if i == 0 or not _follows(row, rows[i - 1])]
    return list(zip(starts, [*starts[1:], len(rows)], strict=True))


def _follows(row: SamplingRow, before: SamplingRow) -> bool:
    return row.seq_id == before.seq_id and row.position == before.position + 1


def _num_common(a: list[int], b: list[int]) -> int:
    """Length of the common prefix; where one is the other's beginning, by one comparison."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return bisect_left(range(shorter), True, key=lambda i: a[: i + 1] != b[: i + 1])


def _allows(mask: Tensor, token_id: int) -> bool:
    return bool(int(mask[token_id // 32]) >> (token_id % 32) & 1)


def _allow_only(mask: Tensor, token_id: int) -> None:
    mask.zero_()
    bit = 1 << (token_id % 32)
    mask[token_id // 32] = bit - (1 << 32) if bit == 1 << 31 else bit
