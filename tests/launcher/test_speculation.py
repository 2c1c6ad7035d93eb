"""``speculate`` and ``speculative_model`` from the option to the engine: found, compared, the same answers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_model import write_tiny_llama

from segue.core.config import ServeConfig, resolve
from segue.core.errors import ConfigError
from segue.core.output import EngineStep
from segue.core.request import SamplingParams
from segue.launcher.download import ModelSource
from segue.launcher.engine_child import build_engine
from segue.launcher.llm import LLM
from segue.launcher.speculation import MAX_STEP_TOKENS, with_speculation

PROMPTS = ["hello hello hello", "one two three one two three one two", "x"]
PARAMS = [
    SamplingParams(max_new_tokens=40),
    SamplingParams(max_new_tokens=40, do_sample=True, temperature=0.5, seed=3, repetition_penalty=1.1),
    SamplingParams(max_new_tokens=40, top_n_tokens=2),
]


@pytest.fixture
def load() -> "Callable[..., LLM]":
    threads = torch.get_num_threads()

    def load(folder: Path, **options: object) -> LLM:
        return LLM(str(folder), device="cpu", kv_cache_memory="4MB", num_threads=threads, **options)

    return load


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path, seed=1)


def test_S7_the_same_answers_in_fewer_steps(load: "Callable[..., LLM]", tiny_llama: Path, other: Path) -> None:
    def run(**options: object) -> tuple[list[tuple[int, ...]], int]:
        llm = load(tiny_llama, **options)
        engine, num_steps = llm._engine, 0
        step = engine.step

        def counting() -> EngineStep | None:
            nonlocal num_steps
            done = step()
            num_steps += done.stats.num_steps if done else 0
            return done

        engine.step = counting  # type: ignore[method-assign]
        llm.generate(PROMPTS[0], PARAMS[0])
        return [output.token_ids for output in llm.generate(PROMPTS, PARAMS)], num_steps

    plain, num_plain_steps = run()
    assert run(speculate=4)[0] == plain
    assert run(speculate=2, speculative_model=str(other))[0] == plain
    twin, num_twin_steps = run(speculative_model=str(tiny_llama))
    assert twin == plain
    assert num_twin_steps <= num_plain_steps - 30, "the first prompt alone takes 9 steps instead of 40"


def test_S7_the_engine_is_told(tiny_llama: Path, other: Path) -> None:
    given = {"device": "cpu", "kv_cache_memory": 1 << 20, "num_threads": torch.get_num_threads()}
    plain, _ = build_engine(resolve(given, {}), tiny_llama)
    assert plain.config.num_speculative_tokens == 0
    lookup, _ = build_engine(resolve({**given, "speculate": 3}, {}), tiny_llama)
    assert (lookup.config.num_speculative_tokens, lookup.config.has_draft_model) == (3, False)
    assert lookup.config.max_speculative_step_tokens == MAX_STEP_TOKENS["cpu"]
    drafted, _ = build_engine(resolve({**given, "speculative_model": str(other)}, {}), tiny_llama)
    assert (drafted.config.num_speculative_tokens, drafted.config.has_draft_model) == (4, True)
    assert drafted.config.num_blocks < lookup.config.num_blocks, "the draft model's cache takes its share"


def test_S7_the_draft_model_is_found_like_any_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    source = ModelSource(model_id="some/model", folder=tmp_path)
    config = ServeConfig(model_id="some/model", revision="abc", weights_cache_override="/nowhere", speculate=3)
    assert with_speculation(config, source) == (config, source)
    found, same_source = with_speculation(replace(config, speculative_model="sample-chat"), source)
    assert same_source == source
    assert found.speculative_model is not None
    assert (Path(found.speculative_model) / "config.json").is_file()
    assert replace(found, speculative_model=None) == config
    with pytest.raises(ConfigError, match="neither a folder nor a name on the Hub"):
        with_speculation(replace(config, speculative_model="/nowhere/at/all"), source)


def test_S7_another_vocabulary_is_refused(load: "Callable[..., LLM]", tiny_llama: Path, other: Path) -> None:
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match=r"must have the model's vocabulary: token \d+ is '[ab]' to the model"):
        load(tiny_llama, speculative_model=str(other))


def test_S7_tokens_added_to_one_of_them_do_not_matter(
    load: "Callable[..., LLM]", tiny_llama: Path, other: Path
) -> None:
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    [last] = [token for token in tokenizer["added_tokens"] if token["content"] == "</s>"]
    tokenizer["added_tokens"].append({**last, "id": last["id"] + 1, "content": "<new>"})
    path.write_text(json.dumps(tokenizer))
    load(tiny_llama, speculative_model=str(other))


def write_medusa(folder: Path, base: Path, num_heads: int = 3) -> Path:
    """Heads of the second version with random weights, for ``tiny_llama``."""
    folder.mkdir()
    config = {"medusa_num_heads": num_heads, "medusa_num_layers": 1, "base_model_name_or_path": str(base)}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {}
    for i in range(num_heads):
        weights[f"{i}.0.linear.weight"] = torch.randn(32, 32, generator=torch.Generator().manual_seed(i)) * 0.1
        weights[f"{i}.0.linear.bias"] = torch.zeros(32)
    save_file(weights, folder / "medusa_lm_head.safetensors")
    return folder


def test_S8_heads_are_served_with_the_model_that_they_name(
    load: "Callable[..., LLM]", tiny_llama: Path, tmp_path: Path
) -> None:
    medusa = write_medusa(tmp_path / "medusa", tiny_llama)
    plain = [output.token_ids for output in load(tiny_llama).generate(PROMPTS, PARAMS)]
    llm = load(medusa)
    assert llm._engine.config.num_speculative_tokens == 3
    assert [output.token_ids for output in llm.generate(PROMPTS, PARAMS)] == plain
    beside = load(tiny_llama, speculative_model=str(medusa))
    assert beside._engine.config.num_speculative_tokens == 3
    assert [output.token_ids for output in beside.generate(PROMPTS, PARAMS)] == plain
    assert load(medusa, speculate=2)._engine.config.num_speculative_tokens == 2
    without = load(medusa, speculate=0)._engine.config
    assert (without.num_speculative_tokens, without.has_draft_model) == (0, False)


def test_S8_heads_that_cannot_be_served(load: "Callable[..., LLM]", tiny_llama: Path, tmp_path: Path) -> None:
    medusa = write_medusa(tmp_path / "medusa", tiny_llama)
    with pytest.raises(ConfigError, match="Speculate is set to `4` but this medusa models only has `3` heads"):
        load(medusa, speculate=4)
    config = json.loads((medusa / "config.json").read_text())
    del config["base_model_name_or_path"]
    (medusa / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="does not name its base model"):
        load(medusa)
