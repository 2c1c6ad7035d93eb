"""Logits → tokens: the ordered list of processors, the choice, its logprobs.

Owns the order. Does not know sequences, blocks or requests; keeps nothing between steps but what a grammar's state
would take to replay (``grammar.py``).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segue.core.errors import GenerationError
from segue.core.output import TokenOutput
from segue.kernels.cpu import sampling as native
from segue.sampling.choose import choose
from segue.sampling.grammar import GrammarStates
from segue.sampling.logprobs import TopTokens, prompt_logprobs
from segue.sampling.processors.base import Processor
from segue.sampling.processors.frequency_penalty import FrequencyPenalty
from segue.sampling.processors.grammar_mask import GrammarMask
from segue.sampling.processors.logit_bias import LogitBias
from segue.sampling.processors.presence_penalty import PresencePenalty
from segue.sampling.processors.repetition_penalty import RepetitionPenalty
from segue.sampling.processors.temperature import Temperature
from segue.sampling.processors.top_k import TopK
from segue.sampling.processors.top_p import TopP
from segue.sampling.processors.typical_p import TypicalP
from segue.sampling.processors.watermark import Watermark
from segue.sampling.random_numbers import uniform
from segue.sampling.row import SamplingRow

__all__ = ["Sampler", "SamplingRow", "prompt_logprobs"]


class Sampler:
    """Chooses one token per row. The same row gives the same id alone and in any batch."""

    def __init__(
        self,
        vocab_size: int,
        *,
        watermark_gamma: float = 0.5,
        watermark_delta: float = 2.0,
        grammars: GrammarStates | None = None,
    ) -> None:
        """``grammars`` may be None where no row has one."""
        self.vocab_size = vocab_size
        self._grammars = grammars
        # TGI's order, with OpenAI's two after its penalties.
        self.processors: tuple[Processor[Any], ...] = (
            Watermark(vocab_size, gamma=watermark_gamma, delta=watermark_delta),
            RepetitionPenalty(vocab_size),
            FrequencyPenalty(vocab_size),
            PresencePenalty(vocab_size),
            LogitBias(vocab_size),
            GrammarMask(vocab_size, grammars),
            Temperature(),
            TopK(vocab_size),
            TopP(),
            TypicalP(),
        )

    @torch.inference_mode()
    def sample(self, logits: Tensor, rows: Sequence[SamplingRow]) -> list[TokenOutput | GenerationError]:
        """``logits``: [num_rows, vocab_size], any float dtype and device, unchanged afterwards.

        One result per row, in order. A row that has no distribution to choose from (NaN, +inf, or nothing but -inf)
        gives an error that names it; it is returned, not raised, so that the others keep their tokens. Computes in
        float32. Waits for the device once, when the results come back, and once more for each row whose last top token
        ties with more than a few others.
        """
        assert logits.shape == (len(rows), self.vocab_size), (logits.shape, len(rows), self.vocab_size)
        if not rows:
            return []
        if logits.device.type == "cpu":
            logits = logits.float() if logits.stride(-1) == 1 else logits.float().contiguous()
        processed = self._process(logits, rows)
        if native.can_run(logits) and native.can_run(processed):
            return _sample_natively(logits, processed, rows)
        ids = choose(processed, rows)
        # A full log_softmax is one fused kernel; logsumexp took 1.7 times as long (bench_sampler.py, one core).
        logprobs = processed.log_softmax(-1)
        top = TopTokens.of(logprobs, rows)
        peaks = logits.amax(-1)
        return _outputs(ids, logprobs.gather(-1, ids[:, None]).squeeze(-1), peaks, top)

    def forced_after(self, row: SamplingRow, chosen: TokenOutput) -> tuple[TokenOutput, ...]:
        """What can only follow the token chosen for ``row``: the grammar leaves no choice, so the logprobs are 0."""
        if self._grammars is None or row.params.grammar is None:
            return ()
        has_top_tokens = row.params.top_n_tokens > 0
        return tuple(
            TokenOutput(token_id, 0.0, ((token_id, 0.0),) if has_top_tokens else ())
            for token_id in self._grammars.forced_after(row, chosen.token_id)
        )

    def grammar_error(self, row: SamplingRow) -> str | None:
        """Why the grammar of a row that got an error cannot go on; None: it was not the grammar."""
        return None if self._grammars is None or row.params.grammar is None else self._grammars.error(row)

    def _process(self, logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
        """[num_rows, vocab_size] float32: ``logits`` themselves if they are that and nobody asked for anything."""
        is_greedy = not any(row.params.is_sampling for row in rows)
        processed = None
        for processor in self.processors:
            if is_greedy and processor.greedy_safe:
                continue
            columns = processor.columns(rows)
            if columns is not None:
                if processed is None:
                    processed = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
                processed = processor.apply(processed, columns)
        return logits.to(torch.float32) if processed is None else processed


def _sample_natively(
    logits: Tensor, processed: Tensor, rows: Sequence[SamplingRow]
) -> list[TokenOutput | GenerationError]:
    """One pass over each row, whose logprobs are computed only where alternatives are asked for."""
    uniforms = [uniform(row.seed, row.position) if row.params.is_sampling else -1.0 for row in rows]
    chosen = native.choose(processed, uniforms)
    peaks = chosen.peaks if processed is logits else native.peaks(logits)
    alternatives = native.likeliest(processed, [row.params.top_n_tokens for row in rows], chosen)
    return [
        _output(i, *given) for i, given in enumerate(zip(chosen.ids, chosen.logprobs, peaks, alternatives, strict=True))
    ]


def _outputs(
    ids: Tensor, logprobs: Tensor, peaks: Tensor, top: TopTokens | None
) -> list[TokenOutput | GenerationError]:
    """[num_rows] each; ``peaks`` are the raw logits'. Ids are exact in float64, so that all come in one transfer."""
    num_rows = len(ids)
    parts = [ids.to(torch.float64), logprobs.to(torch.float64), peaks.to(torch.float64)]
    packed_top = None if top is None else top.pack()
    if packed_top is not None:
        parts.append(packed_top.flatten())
    host = torch.cat(parts).cpu()
    top_tokens: dict[int, tuple[tuple[int, float], ...]] = {}
    if top is not None and packed_top is not None:
        top_tokens = top.unpack(host[3 * num_rows :].view(packed_top.shape).tolist())
    columns = host[: 3 * num_rows].view(3, num_rows).tolist()
    return [
        _output(i, int(token_id), logprob, peak, top_tokens.get(i, ()))
        for i, (token_id, logprob, peak) in enumerate(zip(*columns, strict=True))
    ]


def _output(
    row: int, token_id: int, logprob: float, peak: float, top_tokens: tuple[tuple[int, float], ...]
) -> TokenOutput | GenerationError:
    if math.isnan(peak):
        return GenerationError(f"row {row}: the model's logits hold NaN")
    if math.isinf(peak):
        return GenerationError(f"row {row}: the model's largest logit is {peak}")
    if not math.isfinite(logprob):
        return GenerationError(f"row {row}: processing left no token that can be chosen")
    return TokenOutput(token_id, logprob, top_tokens)
