"""The sample chat model answers by a grammar."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from segue.core.errors import GenerationError
from segue.core.grammar import Grammar
from segue.core.output import FinishReason
from segue.core.request import SamplingParams
from segue.launcher.llm import LLM
from segue.text.json_schema import tgi_schema

SCHEMA = {
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "temperature": {"type": "integer", "minimum": -50, "maximum": 50},
        "sky": {"enum": ["clear", "cloudy", "rainy"]},
    },
    "required": ["city", "temperature", "sky"],
}
WEATHER = Grammar("json_schema", json.dumps(tgi_schema(SCHEMA)))
PROMPT = "What is the weather in Paris? Answer with JSON.\n"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    threads = torch.get_num_threads()
    yield LLM("sample-chat", device="cpu", kv_cache_memory="16MB", num_threads=1)
    torch.set_num_threads(threads)


def test_the_answer_fits_the_schema(llm: LLM) -> None:
    samples = [SamplingParams(grammar=WEATHER, do_sample=True, seed=seed, max_new_tokens=120) for seed in range(4)]
    outputs = llm.generate([PROMPT] * 6, [SamplingParams(grammar=WEATHER), *samples, SamplingParams(max_new_tokens=5)])
    for output in outputs[:5]:
        assert output.finish_reason is FinishReason.EOS_TOKEN
        answer = json.loads(output.text)
        assert list(answer) == ["city", "temperature", "sky"]
        assert -50 <= answer["temperature"] <= 50
        assert answer["sky"] in ("clear", "cloudy", "rainy")
    [alone] = llm.generate(PROMPT, samples[0])
    assert alone.token_ids == outputs[1].token_ids, "the same alone"


def test_a_bad_grammar_fails_and_leaves_nothing_behind(llm: LLM) -> None:
    with pytest.raises(GenerationError, match="unclosed group"):
        llm.generate(
            [PROMPT, PROMPT], [SamplingParams(grammar=Grammar("regex", "(")), SamplingParams(max_new_tokens=5)]
        )
    scheduler = llm._engine.scheduler
    assert [*scheduler.running, *scheduler.waiting, *scheduler.held] == []
    assert scheduler.blocks.num_free_blocks == scheduler.blocks.num_blocks


def test_without_grammar_support_there_is_no_compiler(tiny_llama: Path) -> None:
    from dataclasses import replace

    from segue.core.config import ServeConfig
    from segue.launcher.engine_child import build_engine

    config = replace(ServeConfig(), device="cpu", kv_cache_memory=1 << 20, num_threads=1)
    with_support, _ = build_engine(config, tiny_llama)
    without, _ = build_engine(replace(config, disable_grammar_support=True), tiny_llama)
    assert with_support.scheduler.grammars is not None
    assert without.scheduler.grammars is None
