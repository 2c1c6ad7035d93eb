"""The draft model reads what the large one reads, in every way of running."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from parity import Served, save_random_model
from transformers import GPT2Config, LlamaConfig, T5Config

from segue.core.errors import ConfigError
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=36,
    intermediate_size=50,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=1000,
)
RNG = random.Random(3)
PROMPTS = [[RNG.randrange(97) for _ in range(RNG.randrange(1, 60))] for _ in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_random_model(CONFIG, path, gain=3.0, embedding_std=0.05)
    shutil.copytree(path, path / "twin")
    return path


def twins(folder: Path, **options: Any) -> Served:
    """A model whose draft model is itself: whatever it guesses comes true if it has read the same."""
    return Served(folder, draft=folder / "twin", speculate=3, **options)


@pytest.mark.parametrize(
    "options", [{}, {"budget": 7}, {"num_blocks": 60}], ids=["one batch", "in small chunks", "with preemption"]
)
def test_S7_a_twin_is_always_right(folder: Path, options: dict[str, Any]) -> None:
    expected = Served(folder).generate(PROMPTS)
    served = twins(folder, **options)
    assert served.generate(PROMPTS) == expected
    assert served.generate(PROMPTS) == expected, "from a warm cache"
    assert served.num_cached_tokens > 0
    assert served.num_accepted == served.num_drafts > 0
    assert (served.num_preemptions > 0) == ("num_blocks" in options)


def test_S7_a_twin_saves_steps(folder: Path) -> None:
    served = twins(folder)
    served.generate(PROMPTS[:1])
    assert served.num_steps == 1 + -(-39 // 4), "the prompt, then four tokens a step"


def test_S7_blocks_that_others_filled_without_guessing(folder: Path) -> None:
    """A step too full to guess leaves gaps, which are read when there is room again."""
    served = twins(folder)
    speculator: Any = served.engine.scheduler._speculator
    speculator._step_tokens = 5
    lens = [40, 10, 10, 10]
    expected = Served(folder).generate(PROMPTS, lens)
    assert served.generate(PROMPTS, lens) == expected
    assert served.generate(PROMPTS, lens) == expected
    assert served.num_accepted == served.num_drafts > 0


def test_S7_a_long_text_is_read_over_several_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.runner.draft_model.MAX_CATCH_UP_TOKENS", 16)
    served = twins(folder)
    assert served.generate(PROMPTS) == Served(folder).generate(PROMPTS)
    assert served.num_accepted == served.num_drafts > 0


@pytest.mark.parametrize(
    ("large", "small", "message"),
    [
        (T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4), CONFIG, "without an encoder"),
        (CONFIG, T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4), "has an encoder"),
    ],
)
def test_S7_encoders_are_refused(large: Any, small: Any, message: str, tmp_path: Path) -> None:
    for config, name in ((large, "large"), (small, "small")):
        config.decoder_start_token_id = 0
        save_random_model(config, tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        build_runner(
            RunnerConfig(
                model_folder=tmp_path / "large",
                draft_model_folder=tmp_path / "small",
                device="cpu",
                max_batch_total_tokens=64,
            )
        )


def test_S7_both_caches_share_the_memory(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path / "large")
    small = GPT2Config(vocab_size=97, n_embd=12, n_layer=1, n_head=2, n_positions=64)
    save_random_model(small, tmp_path / "small")
    config = RunnerConfig(
        model_folder=tmp_path / "large",
        draft_model_folder=tmp_path / "small",
        device="cpu",
        dtype="float32",
        kv_cache_bytes=100_000,
    )
    runner, facts = build_runner(config)
    drafter: Any = runner.drafter
    pools = [*runner.kv_caches, *drafter.kv_caches]
    num_bytes = sum(cache.nbytes for pair in pools for cache in pair)
    per_block = num_bytes // facts.num_blocks
    assert 100_000 - per_block < num_bytes <= 100_000
    assert len(drafter.kv_caches) == 1
