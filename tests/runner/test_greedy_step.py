"""Greedy steps leave to others what they cannot do. That they give the same, ``parity.py`` shows for every family."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import BLOCK_SIZE, save_random_model
from transformers import LlamaConfig, T5Config

from segue.core.batch import EncoderInput, ScheduledBatch, ScheduledSequence
from segue.core.request import SamplingParams
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig
from segue.runner.model_runner import ModelRunner

pytest.importorskip("segue.kernels.cpu._native")

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, **SIZES)
T5 = T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)


def runner_of(config: Any, folder: Path) -> ModelRunner:
    save_random_model(config, folder)
    given = RunnerConfig(model_folder=folder, device="cpu", block_size=BLOCK_SIZE, max_batch_total_tokens=200)
    return build_runner(given)[0]


def sequence(seq_id: int, token_ids: list[int], start: int = 0, **changes: Any) -> ScheduledSequence:
    """With blocks that no other has."""
    given: dict[str, Any] = {
        "sampling": SamplingParams(),
        "needs_token": True,
        "history": [5] * start + token_ids,
        "num_prompt_tokens": start + len(token_ids),
        "seed": 0,
        "block_table": list(range(5 * seq_id, 5 * seq_id + 5)),
    }
    return ScheduledSequence(seq_id=seq_id, token_ids=token_ids, num_computed_tokens=start, **given | changes)


def batch_of(*sequences: ScheduledSequence) -> ScheduledBatch:
    return ScheduledBatch(sequences=sequences, num_decode_sequences=0)


def tokens_of(runner: ModelRunner, batch: ScheduledBatch) -> dict[int, int]:
    output = runner.execute(batch)
    assert output.errors == {}
    return {seq_id: token.token_id for seq_id, (token,) in output.tokens.items()}


def test_prompts_and_tokens_in_one_step(tmp_path: Path) -> None:
    runner = runner_of(LLAMA, tmp_path)
    tokens_of(runner, batch_of(sequence(1, [7, 8, 9, 10, 11, 12])))
    batch = batch_of(sequence(1, [13], 6), sequence(0, [3, 4, 5]), sequence(2, [30]))
    assert runner.greedy_step is not None
    greedy = runner.greedy_step.run(batch.sequences)
    assert greedy is not None
    runner.greedy_step = None
    assert tokens_of(runner, batch) == {s: t.token_id for s, t in zip((1, 0, 2), greedy[0], strict=True)}


def test_an_encoder_runs_before(tmp_path: Path) -> None:
    runner = runner_of(T5, tmp_path)
    encoder = EncoderInput(token_ids=[4, 5, 6, 7, 8], block_table=[20, 21], run=True)
    batch = batch_of(sequence(0, [0], encoder=encoder))
    alone = tokens_of(runner, batch)
    for caches in runner.kv_caches:
        for cache in caches:
            assert isinstance(cache, torch.Tensor)
            cache.zero_()
    runner.greedy_step = None
    assert tokens_of(runner, batch) == alone


@pytest.mark.parametrize(
    "other",
    [
        {"sampling": SamplingParams(top_n_tokens=2)},
        {"sampling": SamplingParams(do_sample=True)},
        {"needs_token": False},
        {"num_draft_tokens": 1},
    ],
    ids=["alternatives", "sampling", "no token", "guesses"],
)
def test_one_sequence_that_wants_more_is_enough(other: dict[str, Any], tmp_path: Path) -> None:
    runner = runner_of(LLAMA, tmp_path)
    assert runner.greedy_step is not None
    sequences = [sequence(0, [3, 4, 5]), sequence(1, [6, 7, 8], **other)]
    assert runner.greedy_step.run(sequences) is None
    assert runner.greedy_step.run(sequences[:1]) is not None
    assert runner.execute(batch_of(*sequences)).errors == {}


def test_a_sequence_without_finite_logits_fails_alone(tmp_path: Path) -> None:
    runner = runner_of(LLAMA, tmp_path)
    good, bad = sequence(0, [3], 4), sequence(1, [6], 4)
    expected = tokens_of(runner, batch_of(good))
    values = runner.kv_caches[0][1]
    assert isinstance(values, torch.Tensor)
    values[bad.block_table[0]] = torch.nan
    output = runner.execute(batch_of(good, bad))
    assert {seq_id: token.token_id for seq_id, (token,) in output.tokens.items()} == expected
    assert output.errors.keys() == {1}
    assert torch.isfinite(values).all()
