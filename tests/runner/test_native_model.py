"""A native model computes no more of the last layer than what is read of it, and nothing else changes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity import save_random_model
from transformers import BartConfig, FalconConfig, LlamaConfig, OPTConfig, PretrainedConfig

pytest.importorskip("segue.kernels.cpu._native")

from segue.core.batch import EncoderInput, ScheduledBatch, ScheduledSequence
from segue.core.request import SamplingParams
from segue.kernels.cpu.program import TILE_ROWS
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig
from segue.runner.input_batch import encoder_batch, input_batch
from segue.runner.native_model import NativeModel

CPU = torch.device("cpu")
BLOCK_SIZE = 16
SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, max_position_embeddings=1024),
    "opt": OPTConfig(**SIZES, ffn_dim=48, max_position_embeddings=1024, word_embed_proj_dim=32),
    "falcon": FalconConfig(**SIZES, alibi=False, parallel_attn=True, new_decoder_architecture=False),
    "bart": BartConfig(
        vocab_size=97,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=1024,
    ),
}
# (tokens of the step, tokens before them, wanted rows)
STEPS = {
    "one of a prompt": [(30, 0, 1)],
    "none of a chunk": [(30, 16, 0)],
    "none of two tiles": [(TILE_ROWS + 9, 0, 0)],
    "one of three tiles": [(2 * TILE_ROWS + 9, 0, 1)],
    "rows on both sides of a tile's end": [(TILE_ROWS + 3, 5, 7)],
    "a chunk that ends with a tile": [(TILE_ROWS, 0, 1), (12, 0, 1)],
    "decodes, guesses and chunks": [(1, 20, 1), (1, 33, 1), (5, 40, 3), (40, 0, 0), (TILE_ROWS, 11, 1), (20, 0, 20)],
}


@pytest.fixture(scope="module", params=CONFIGS)
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    folder: Path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    save_random_model(CONFIGS[request.param], folder)
    made, _ = build_runner(
        RunnerConfig(model_folder=folder, device="cpu", block_size=BLOCK_SIZE, max_batch_total_tokens=4096)
    )
    return made


@pytest.mark.parametrize("step", STEPS)
def test_wanted_rows_are_those_of_the_whole(step: str, runner: object) -> None:
    model = runner.model  # type: ignore[attr-defined]
    assert isinstance(model, NativeModel)
    assert model._forward.narrows
    torch.manual_seed(len(step))
    caches = runner.kv_caches  # type: ignore[attr-defined]
    for pair in caches:
        for cache in pair:
            cache.normal_()
    sequences = sequences_of(STEPS[step], model.is_encoder_decoder)
    if model.is_encoder_decoder:
        encoded = encoder_batch(sequences, caches, BLOCK_SIZE, CPU)
        model.encode(encoded.input_ids, encoded.positions, encoded.ctx)
    inputs = input_batch(ScheduledBatch(sequences=sequences, num_decode_sequences=0), caches, BLOCK_SIZE, CPU)
    counts = [count for _, _, count in STEPS[step]]
    ends = inputs.ctx.attention.query_starts[1:]
    rows = [row for end, count in zip(ends, counts, strict=True) for row in range(end - count, end)]
    with torch.inference_mode():
        whole = model(inputs.input_ids, inputs.positions, replace(inputs.ctx, wanted=None))
        wanted = model(inputs.input_ids, inputs.positions, replace(inputs.ctx, wanted=counts))
    assert torch.equal(wanted, whole[rows])


def sequences_of(step: list[tuple[int, int, int]], has_encoder: bool) -> list[ScheduledSequence]:
    sequences = []
    first = 0
    for i, (count, before, _) in enumerate(step):
        blocks = -(-(count + before) // BLOCK_SIZE)
        encoder = None
        if has_encoder:
            encoder = EncoderInput(token_ids=[9] * (20 + i), block_table=[first + blocks, first + blocks + 1], run=True)
        ids = torch.randint(3, 97, (count,)).tolist()
        sequences.append(
            ScheduledSequence(
                seq_id=i,
                token_ids=ids,
                num_computed_tokens=before,
                block_table=list(range(first, first + blocks)),
                sampling=SamplingParams(),
                needs_token=True,
                history=[5] * before + ids,
                num_prompt_tokens=before + count,
                seed=0,
                encoder=encoder,
            )
        )
        first += blocks + 2
    return sequences
