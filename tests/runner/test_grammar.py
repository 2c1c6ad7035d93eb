"""Random models that follow grammars: whatever they say is valid, and the same in every way of running."""

import json
import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from parity import save_random_model
from sampling.rows import letters_tokenizer
from tokenizers import Tokenizer
from transformers import LlamaConfig, T5Config

from segue.core.grammar import Grammar
from segue.core.output import FinishReason, RequestOutput
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig
from segue.text.json_schema import tgi_schema

EOS = 0
VOCAB_SIZE = 300
TOKENIZER = Tokenizer.from_str(letters_tokenizer())
LLAMA = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
)
T5 = T5Config(vocab_size=VOCAB_SIZE, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=7)
SHORT = {"type": "string", "maxLength": 4}
SCHEMAS: list[dict[str, Any]] = [
    {"properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": SHORT}, "required": ["a", "b"]},
    {"properties": {"ok": {"type": "boolean"}, "no": {"type": "null"}}, "required": ["ok"]},
    {
        "properties": {"kind": {"enum": ["x", 1, None, "long word"]}, "fixed": {"const": {"k": [1]}}},
        "required": ["kind"],
    },
    {"properties": {"list": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}}, "required": ["list"]},
    {
        "properties": {"p": {"$ref": "#/$defs/p"}, "q": {"anyOf": [{"$ref": "#/$defs/p"}, {"type": "null"}]}},
        "required": ["p", "q"],
        "$defs": {"p": {"properties": {"x": {"type": "integer", "minimum": -5, "maximum": 5}}, "required": ["x"]}},
    },
    {"properties": {"z": {"type": "boolean"}, "a": {"type": "boolean"}}, "required": ["a", "z"]},
    {"properties": {"id": {"type": "string", "pattern": "^[a-f]{2}-[0-9]{3}$"}}, "required": ["id"]},
]
REGEXES = ["(yes|no|perhaps)", r"[0-9]{3}-[0-9]{4}", "a{3,9}b?", "(true|false)(, (true|false)){0,2}", "[^x]{2,5}x"]


def schema_grammar(schema: dict[str, Any]) -> Grammar:
    return Grammar("json_schema", json.dumps(tgi_schema(schema)))


@dataclass
class Served:
    """A random model behind an engine."""

    folder: Path
    num_blocks: int = 600
    budget: int = 512
    num_steps: int = 0
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    next_id: int = 0
    logprobs: dict[int, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = RunnerConfig(
            model_folder=self.folder, device="cpu", block_size=4, max_batch_total_tokens=4 * self.num_blocks
        )
        self.runner, self.facts = build_runner(config, tokenizer_json=letters_tokenizer)
        engine_config = EngineConfig(
            num_blocks=self.num_blocks, block_size=4, max_batch_size=64, max_batch_prefill_tokens=self.budget
        )
        self.engine = Engine(engine_config, self.runner, self.runner.grammars)
        self.news = threading.Event()
        self.engine.wake_with(self.news.set)

    def generate(self, asks: Sequence[tuple[list[int], SamplingParams]], max_new_tokens: int = 100) -> list[list[int]]:
        """Tokens of each, all in one batch; raises when one fails."""
        first = self.next_id
        for prompt, sampling in asks:
            is_seq2seq = self.facts.is_encoder_decoder
            request = Request(
                request_id=self.next_id,
                prompt_token_ids=self.facts.decoder_start_token_ids if is_seq2seq else tuple(prompt),
                encoder_token_ids=tuple(prompt) if is_seq2seq else None,
                sampling=sampling,
                stop=StopCriteria(max_new_tokens=max_new_tokens, eos_token_ids=frozenset({EOS})),
            )
            self.engine.add(request)
            self.next_id += 1
        outputs: dict[int, list[RequestOutput]] = {i: [] for i in range(first, self.next_id)}
        while any(not each or each[-1].finish_reason is None for each in outputs.values()):
            self.news.clear()
            step = self.engine.step()
            if step is None:
                assert self.news.wait(60), "nothing runs and no grammar becomes ready"
                continue
            self.engine.scheduler.check_invariants()
            self.num_steps += step.stats.num_scheduled_tokens > 0
            self.num_preemptions += step.stats.num_preemptions
            self.num_cached_tokens += step.stats.num_cached_tokens
            for output in step.outputs:
                assert output.error is None, output.error
                outputs[output.request_id].append(output)
        self.finish_reasons = [each[-1].finish_reason for each in outputs.values()]
        for i, each in outputs.items():
            self.logprobs[i] = [token.logprob for output in each for token in output.tokens]
        return [[token.token_id for output in each for token in output.tokens] for each in outputs.values()]


def save(config: Any, folder: Path) -> Path:
    save_random_model(config, folder, embedding_std=1.0)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(LLAMA, tmp_path_factory.mktemp("llama"))


def text_of(ids: Sequence[int]) -> str:
    assert ids[-1] == EOS
    return str(TOKENIZER.decode(list(ids)))


def check_schema(text: str, schema: dict[str, Any]) -> None:
    """What the schemas of this module say, by hand."""
    value = json.loads(text)
    assert isinstance(value, dict)
    assert list(value) == [name for name in schema["properties"] if name in value]
    assert set(schema["required"]) <= set(value)
    assert not re.search(r"  |\n|\t", re.sub(r'"[^"]*"', "s", text))
    checks: dict[str, Callable[[Any], bool]] = {
        "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
        "boolean": lambda v: isinstance(v, bool),
        "null": lambda v: v is None,
        "string": lambda v: isinstance(v, str),
        "array": lambda v: isinstance(v, list) and all(isinstance(each, bool) for each in v),
    }
    for name, each in value.items():
        rule = schema["properties"][name]
        if "type" in rule:
            assert checks[rule["type"]](each)
        assert rule.get("minimum", -1000) <= (each if isinstance(each, int) else 0) <= rule.get("maximum", 1000)
        assert "enum" not in rule or each in rule["enum"]
        assert "const" not in rule or each == rule["const"]
        assert "pattern" not in rule or re.fullmatch(rule["pattern"], each)
        assert not isinstance(each, str) or "maxLength" not in rule or len(each) <= rule["maxLength"]


def test_always_valid(llama: Path) -> None:
    """Every schema with many seeds, hot enough to say anything that is allowed."""
    served = Served(llama)
    rng = random.Random(5)
    for schema in SCHEMAS:
        grammar = schema_grammar(schema)
        asks = [
            (
                [rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randrange(1, 9))],
                SamplingParams(grammar=grammar, do_sample=seed > 0, temperature=1.0 if seed < 8 else 5.0, seed=seed),
            )
            for seed in range(16)
        ]
        texts = [text_of(ids) for ids in served.generate(asks)]
        assert set(served.finish_reasons) == {FinishReason.EOS_TOKEN}
        for text in texts:
            check_schema(text, schema)
        assert len(set(texts)) > 1
    for regex in REGEXES:
        asks = [
            ([1 + seed], SamplingParams(grammar=Grammar("regex", regex), do_sample=True, seed=seed))
            for seed in range(9)
        ]
        for ids in served.generate(asks):
            assert re.fullmatch(regex, text_of(ids), re.DOTALL)


def mixture(num: int) -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(num)
    grammars = [None, *map(schema_grammar, SCHEMAS), *(Grammar("regex", regex) for regex in REGEXES)]
    return [
        (
            [rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randrange(1, 12))],
            SamplingParams(
                grammar=grammars[i % len(grammars)],
                do_sample=rng.random() < 0.7,
                temperature=rng.choice([1.0, 1.5]),
                repetition_penalty=rng.choice([1.0, 1.2]),
                top_k=rng.choice([0, 20]),
                seed=i,
            ),
        )
        for i in range(num)
    ]


def test_in_any_company_the_same(llama: Path) -> None:
    asks = mixture(26)
    served = Served(llama)
    alone = [served.generate([ask], max_new_tokens=30)[0] for ask in asks]
    assert Served(llama).generate(asks, max_new_tokens=30) == alone, "in a mixed batch"
    warm = served.num_cached_tokens
    assert served.generate(asks, max_new_tokens=30) == alone, "from a warm cache"
    assert served.num_cached_tokens > warm
    assert Served(llama, budget=26).generate(asks, max_new_tokens=30) == alone, "in small chunks"
    tight = Served(llama, num_blocks=30)
    assert tight.generate(asks, max_new_tokens=30) == alone, "with preemption"
    assert tight.num_preemptions > 0


def test_forced_tokens_take_no_step_each(llama: Path) -> None:
    served = Served(llama)
    text = "this text is forced from its first letter to its last one"
    ids = served.generate([([3, 4], SamplingParams(grammar=Grammar("regex", text + "!?")))])[0]
    assert text_of(ids) in (text, text + "!")
    assert len(ids) > 30
    assert served.num_steps < 5
    assert sum(logprob != 0.0 for logprob in served.logprobs[0]) <= 3


def test_a_length_limit_cuts_forced_tokens(llama: Path) -> None:
    [ids] = Served(llama).generate([([3], SamplingParams(grammar=Grammar("regex", "abcdefghij")))], max_new_tokens=4)
    assert TOKENIZER.decode(ids) in ("abcde", "abcd")
    assert len(ids) == 4


def test_an_encoder_decoder_follows_grammars(tmp_path: Path) -> None:
    served = Served(save(T5, tmp_path))
    asks = [
        ([5, 6, 7 + seed], SamplingParams(grammar=schema_grammar(SCHEMAS[0]), do_sample=True, seed=seed))
        for seed in range(6)
    ]
    for ids in served.generate(asks):
        check_schema(text_of(ids), SCHEMAS[0])


def test_a_model_without_an_end_token_has_no_grammars(tmp_path: Path) -> None:
    save_random_model(LLAMA, tmp_path)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((tmp_path / name).read_text())
        values.pop("eos_token_id", None)
        (tmp_path / name).write_text(json.dumps(values))
    runner, facts = build_runner(
        RunnerConfig(model_folder=tmp_path, max_batch_total_tokens=64), None, letters_tokenizer
    )
    assert facts.eos_token_ids == ()
    assert runner.grammars is None
