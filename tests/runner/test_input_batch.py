"""The lists of a step become the same tensors with and without the native kernels."""

from typing import Any

import pytest
import torch

from segue.core.batch import EncoderInput, ScheduledBatch, ScheduledSequence
from segue.core.request import SamplingParams
from segue.kernels import cpu
from segue.runner.input_batch import InputBatch, encoder_batch, input_batch

CPU = torch.device("cpu")


def sequence(token_ids: Any, start: int, block_table: Any, encoder: EncoderInput | None = None) -> ScheduledSequence:
    return ScheduledSequence(
        seq_id=block_table[0],
        token_ids=token_ids,
        num_computed_tokens=start,
        block_table=block_table,
        sampling=SamplingParams(),
        needs_token=True,
        history=token_ids,
        num_prompt_tokens=9,
        seed=0,
        encoder=encoder,
    )


SOURCES = [
    EncoderInput(token_ids=(11, 12, 13, 14, 15), block_table=[6, 2], run=True),
    EncoderInput(token_ids=[16], block_table=[1, 9], run=True),
]
SEQUENCES = [sequence([5], 7, [3, 0], SOURCES[0]), sequence((1, 2, 3, 4, 5, 6), 3, (4, 8, 7), SOURCES[1])]


@pytest.fixture(params=[False, True], ids=["python", "native"], autouse=True)
def is_native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    native: bool = request.param
    if native:
        pytest.importorskip("segue.kernels.cpu._native")
    else:
        monkeypatch.setattr(cpu, "is_available", lambda: False)
    return native


def packed(inputs: InputBatch) -> list[list[int]]:
    return [tensor.tolist() for tensor in (inputs.input_ids, inputs.positions, inputs.ctx.slot_mapping)]


def test_decoder_side() -> None:
    inputs = input_batch(ScheduledBatch(sequences=SEQUENCES, num_decode_sequences=1), [], 4, CPU, 9)
    assert packed(inputs) == [
        [5, 1, 2, 3, 4, 5, 6],
        [7, 3, 4, 5, 6, 7, 8],
        [3, 19, 32, 33, 34, 35, 28],
    ]
    attention, cross = inputs.ctx.attention, inputs.ctx.cross_attention
    assert cross is not None
    assert (attention.query_lens, attention.kv_lens) == ([1, 6], [8, 9])
    assert (cross.query_lens, cross.kv_lens) == ([1, 6], [5, 1])
    assert inputs.ctx.is_long is not None
    assert not inputs.ctx.is_long.any()


def test_encoder_side() -> None:
    inputs = encoder_batch(SEQUENCES, [], 4, CPU)
    assert packed(inputs) == [[11, 12, 13, 14, 15, 16], [0, 1, 2, 3, 4, 0], [24, 25, 26, 27, 8, 4]]
    assert (inputs.ctx.attention.query_lens, inputs.ctx.attention.kv_lens) == ([5, 1], [5, 1])


def test_a_block_table_that_is_too_short(is_native: bool) -> None:
    short = ScheduledBatch(sequences=[sequence([1, 2], 3, [0])], num_decode_sequences=0)
    with pytest.raises(ValueError if is_native else IndexError):
        input_batch(short, [], 4, CPU)
