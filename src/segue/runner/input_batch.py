"""Lists → tensors: one step's ``ScheduledBatch`` as the packed inputs of the model."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.kernels.metadata import AttentionMetadata
from segue.kernels.scaled_cache import CacheTensor
from segue.layers.attention import ForwardContext

__all__ = ["InputBatch", "encoder_batch", "input_batch"]

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
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    for sequence in batch.sequences:
        start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + len(sequence.token_ids)
        ids.extend(sequence.token_ids)
        positions.extend(range(start, end))
        slots.extend(_slots(sequence.block_table, start, end, block_size))
    is_long = None
    if long_prompt_boundary is not None:
        flags = [
            sequence.num_prompt_tokens > long_prompt_boundary
            for sequence in batch.sequences
            for _ in sequence.token_ids
        ]
        is_long = torch.tensor(flags, device=device)
    packed = torch.tensor([ids, positions, slots], dtype=torch.int64).to(device, non_blocking=True)
    ctx = ForwardContext(
        kv_caches=kv_caches,
        attention=AttentionMetadata(
            query_lens=[len(s.token_ids) for s in batch.sequences],
            kv_lens=[s.num_computed_tokens + len(s.token_ids) for s in batch.sequences],
            block_tables=[s.block_table for s in batch.sequences],
            num_decodes=batch.num_decode_sequences,
            block_size=block_size,
            device=device,
        ),
        slot_mapping=packed[2],
        cross_attention=_cross_attention(batch, block_size, device),
        is_long=is_long,
    )
    return InputBatch(packed[0], packed[1], ctx)


def encoder_batch(
    sequences: Seq[ScheduledSequence], kv_caches: KVCaches, block_size: int, device: torch.device
) -> InputBatch:
    """The encoder inputs of ``sequences``, packed; the slots are those of the cross-attention K/V."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    lens: list[int] = []
    for sequence in sequences:
        assert sequence.encoder is not None
        num_tokens = len(sequence.encoder.token_ids)
        ids.extend(sequence.encoder.token_ids)
        positions.extend(range(num_tokens))
        slots.extend(_slots(sequence.encoder.block_table, 0, num_tokens, block_size))
        lens.append(num_tokens)
    packed = torch.tensor([ids, positions, slots], dtype=torch.int64).to(device, non_blocking=True)
    attention = AttentionMetadata(
        query_lens=lens, kv_lens=lens, block_tables=[], num_decodes=0, block_size=block_size, device=device
    )
    return InputBatch(
        packed[0], packed[1], ForwardContext(kv_caches=kv_caches, attention=attention, slot_mapping=packed[2])
    )


def _cross_attention(batch: ScheduledBatch, block_size: int, device: torch.device) -> AttentionMetadata | None:
    encoders = [s.encoder for s in batch.sequences if s.encoder is not None]
    if not encoders:
        return None
    assert len(encoders) == len(batch.sequences), "an encoder-decoder's sequences all have an encoder side"
    return AttentionMetadata(
        query_lens=[len(s.token_ids) for s in batch.sequences],
        kv_lens=[len(encoder.token_ids) for encoder in encoders],
        block_tables=[encoder.block_table for encoder in encoders],
        num_decodes=batch.num_decode_sequences,
        block_size=block_size,
        device=device,
    )


def _slots(block_table: Seq[int], start: int, end: int, block_size: int) -> Seq[int]:
    if end - start == 1:
        return (block_table[start // block_size] * block_size + start % block_size,)
    return [block_table[p // block_size] * block_size + p % block_size for p in range(start, end)]
