"""Lists → tensors: one step's ``ScheduledBatch`` as the packed inputs of the model."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from operator import add

import torch
from torch import Tensor

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.kernels import cpu
from segue.kernels.metadata import AttentionMetadata
from segue.kernels.scaled_cache import CacheTensor
from segue.layers.attention import ForwardContext

__all__ = ["InputBatch", "encoder_batch", "input_batch", "wanted_rows"]

KVCaches = list[tuple[CacheTensor, CacheTensor]]


@dataclass(frozen=True, slots=True)
class InputBatch:
    """``input_ids`` and ``positions`` [num_tokens] int64."""

    input_ids: Tensor
    positions: Tensor
    ctx: ForwardContext


def input_batch(
    batch: ScheduledBatch,
    kv_caches: KVCaches,
    block_size: int,
    device: torch.device,
    long_prompt_boundary: int | None = None,
) -> InputBatch:
    """The decoder side of a step."""
    sequences = batch.sequences
    token_ids = [s.token_ids for s in sequences]
    starts = [s.num_computed_tokens for s in sequences]
    block_tables = [s.block_table for s in sequences]
    query_lens = list(map(len, token_ids))
    ids, positions, slots = _packed(token_ids, starts, block_tables, block_size, device)
    is_long = None
    if long_prompt_boundary is not None:
        flags = [s.num_prompt_tokens > long_prompt_boundary for s in sequences for _ in s.token_ids]
        is_long = torch.tensor(flags, device=device)
    ctx = ForwardContext(
        kv_caches=kv_caches,
        attention=AttentionMetadata(
            query_lens=query_lens,
            kv_lens=list(map(add, starts, query_lens)),
            block_tables=block_tables,
            num_decodes=batch.num_decode_sequences,
            block_size=block_size,
            device=device,
        ),
        slot_mapping=slots,
        wanted=[_num_wanted(s) for s in sequences],
        cross_attention=_cross_attention(batch, query_lens, block_size, device),
        is_long=is_long,
    )
    return InputBatch(ids, positions, ctx)


def _num_wanted(sequence: ScheduledSequence) -> int:
    """How many of its last rows are read: all where its prompt is scored, else those that a token is chosen from."""
    if sequence.sampling.prompt_logprobs and sequence.num_computed_tokens < sequence.num_prompt_tokens:
        return len(sequence.token_ids)
    return 1 + sequence.num_draft_tokens if sequence.needs_token else 0


def wanted_rows(hidden: Tensor, ctx: ForwardContext) -> Tensor:
    """The wanted rows of what a model gave, all or only these: [sum of ``ctx.wanted``, hidden]."""
    assert ctx.wanted is not None
    if hidden.shape[0] == sum(ctx.wanted):
        return hidden
    ends = ctx.attention.query_starts[1:]
    rows = [row for end, count in zip(ends, ctx.wanted, strict=True) for row in range(end - count, end)]
    return hidden[torch.tensor(rows, dtype=torch.int64, device=hidden.device)]


def encoder_batch(
    sequences: Seq[ScheduledSequence], kv_caches: KVCaches, block_size: int, device: torch.device
) -> InputBatch:
    """The encoder inputs of ``sequences``, packed; the slots are those of the cross-attention K/V."""
    encoders = [s.encoder for s in sequences if s.encoder is not None]
    assert len(encoders) == len(sequences)
    token_ids = [encoder.token_ids for encoder in encoders]
    lens = list(map(len, token_ids))
    block_tables = [encoder.block_table for encoder in encoders]
    ids, positions, slots = _packed(token_ids, [0] * len(encoders), block_tables, block_size, device)
    attention = AttentionMetadata(
        query_lens=lens, kv_lens=lens, block_tables=[], num_decodes=0, block_size=block_size, device=device
    )
    return InputBatch(ids, positions, ForwardContext(kv_caches=kv_caches, attention=attention, slot_mapping=slots))


def _cross_attention(
    batch: ScheduledBatch, query_lens: list[int], block_size: int, device: torch.device
) -> AttentionMetadata | None:
    encoders = [s.encoder for s in batch.sequences if s.encoder is not None]
    if not encoders:
        return None
    assert len(encoders) == len(batch.sequences), "an encoder-decoder's sequences all have an encoder side"
    return AttentionMetadata(
        query_lens=query_lens,
        kv_lens=[len(encoder.token_ids) for encoder in encoders],
        block_tables=[encoder.block_table for encoder in encoders],
        num_decodes=batch.num_decode_sequences,
        block_size=block_size,
        device=device,
    )


def _packed(
    token_ids: Seq[Seq[int]], starts: Seq[int], block_tables: Seq[Seq[int]], block_size: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Ids, positions and slots, [num_tokens] int64 each."""
    if cpu.is_available():
        from segue.kernels.cpu.step import pack_tokens

        packed = pack_tokens(token_ids, starts, block_tables, block_size)
    else:
        ids = [token_id for part in token_ids for token_id in part]
        spans = [range(start, start + len(part)) for start, part in zip(starts, token_ids, strict=True)]
        positions = [position for span in spans for position in span]
        slots = [
            table[position // block_size] * block_size + position % block_size
            for span, table in zip(spans, block_tables, strict=True)
            for position in span
        ]
        packed = torch.tensor([ids, positions, slots], dtype=torch.int64)
    return packed.to(device, non_blocking=True).unbind()
