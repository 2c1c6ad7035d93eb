"""Lengths and budgets that nobody set."""

from pathlib import Path
from typing import Any

import pytest

from segue.core.config import ServeConfig
from segue.core.errors import ConfigError
from segue.launcher.limits import engine_info, tokenizer_max_length
from segue.runner.build import ModelFacts


def facts(**changes: Any) -> ModelFacts:
    values: dict[str, Any] = {
        "model_type": "llama",
        "is_encoder_decoder": False,
        "dtype": "float32",
        "quantize": None,
        "device": "cpu",
        "device_name": "cpu-x86_64",
        "vocab_size": 100,
        "max_positions": 2048,
        "block_size": 16,
        "num_blocks": 1000,
        "eos_token_ids": (2,),
        "bos_token_id": 1,
        "decoder_start_token_ids": (),
        "long_prompt_boundary": None,
    }
    return ModelFacts(**values | changes)


@pytest.mark.parametrize(
    ("changes", "model_max_length", "max_total_tokens"),
    [
        ({}, None, 2048),
        ({}, 512, 512),
        ({"num_blocks": 10}, None, 160),
        ({"max_positions": None}, None, 4096),
        ({"max_positions": None, "num_blocks": 10}, None, 160),
        ({"max_positions": None}, 512, 512),
        ({"is_encoder_decoder": True, "num_blocks": 10, "decoder_start_token_ids": (0,)}, None, 127),
    ],
)
def test_F3_max_total_tokens(changes: dict[str, Any], model_max_length: int | None, max_total_tokens: int) -> None:
    info = engine_info(ServeConfig(), facts(**changes), model_max_length)
    assert info.max_total_tokens == max_total_tokens
    assert info.max_input_tokens == max_total_tokens - 1


def test_F3_what_is_set_is_kept() -> None:
    config = ServeConfig(max_input_tokens=100, max_total_tokens=1024, max_batch_prefill_tokens=50)
    info = engine_info(config, facts(), 512)
    assert (info.max_input_tokens, info.max_total_tokens, info.max_batch_prefill_tokens) == (100, 1024, 50)
    assert info.max_batch_total_tokens == 16000


def test_a_long_prompt_limit_lifts_the_total_of_a_model_without_limits() -> None:
    info = engine_info(ServeConfig(max_input_tokens=5000), facts(max_positions=None), None)
    assert info.max_total_tokens == 5001


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1024),
        ({"device": "cuda:1"}, 2048),
        ({"device": "cuda", "max_positions": None}, 4096),
        ({"num_blocks": 2}, 32),
    ],
)
def test_F3_prefill_budget(changes: dict[str, Any], expected: int) -> None:
    assert engine_info(ServeConfig(), facts(**changes), None).max_batch_prefill_tokens == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (1023, 1024, 1024)),
        ({"max_batch_prefill_tokens": 100}, (99, 100, 100)),
        ({"max_input_tokens": 1500}, (1500, 1501, 1500)),
        ({"max_total_tokens": 1800}, (1799, 1800, 1799)),
        ({"max_input_tokens": 10, "max_total_tokens": 20}, (10, 20, 1024)),
    ],
)
def test_F3_without_chunking_a_step_reads_the_longest_prompt(
    options: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    info = engine_info(ServeConfig(prefill_chunking=False, **options), facts(), None)
    assert (info.max_input_tokens, info.max_total_tokens, info.max_batch_prefill_tokens) == expected


def test_F5_without_chunking_a_prompt_must_fit_in_a_step() -> None:
    config = ServeConfig(prefill_chunking=False, max_batch_prefill_tokens=100, max_total_tokens=1000)
    with pytest.raises(ConfigError, match=r"must be >= `max_input_tokens`\. Given: 100 and 999"):
        engine_info(config, facts(), None)


def test_rope_factor_lengthens_the_model() -> None:
    config = ServeConfig(rope_scaling="dynamic", rope_factor=2.0)
    assert engine_info(config, facts(), None).max_total_tokens == 4096


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"max_total_tokens": 2049}, {}, r"`max_total_tokens`\(2049\) must be <= the model's 2048 positions"),
        ({"max_total_tokens": 161}, {"num_blocks": 10}, "Not enough memory to handle `max_total_tokens=161`"),
        ({"max_input_tokens": 2048}, {}, r"`max_input_tokens`\(2048\) must be < `max_total_tokens`\(2048\)"),
        ({}, {"is_encoder_decoder": True, "num_blocks": 2}, "Not enough memory: a KV cache of 2 blocks"),
    ],
)
def test_limits_that_cannot_be_met(options: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_info(ServeConfig(**options), facts(**changes), None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"model_max_length": 512}', 512),
        ('{"model_max_length": 1000000000000000019884624838656}', None),
        ('{"model_max_length": 1e30}', None),
        ("{}", None),
        ("broken", None),
    ],
)
def test_length_of_the_tokenizer(tmp_path: Path, text: str, expected: int | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text(text)
    assert tokenizer_max_length(tmp_path) == expected
    assert tokenizer_max_length(tmp_path / "none") is None
