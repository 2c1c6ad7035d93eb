"""The shipped checkpoints: complete, small, loadable, and right about what their model cards say they know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from segue import samples

pytest.importorskip("torch")
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from training import chat_format, corpus
from training.document import Turn
from training.evaluate import generate
from training.kinds.classification import ZERO_SHOT_PROMPT
from training.kinds.structured import TOOLS

MAX_BYTES = 8_000_000
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


class Sample:
    """A loaded checkpoint that answers greedily."""

    def __init__(self, folder: Path, kind: Any) -> None:
        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = kind.from_pretrained(folder, dtype=torch.float32)

    def complete(self, prompt: str, max_new_tokens: int = 40) -> str:
        return generate(self.model, self.tokenizer, [prompt], max_new_tokens)[0]

    def chat(self, *messages: tuple[str, str], **options: Any) -> str:
        listed = [{"role": role, "content": text} for role, text in messages]
        return self.complete(
            self.tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=True, **options)
        )


@pytest.fixture(scope="module")
def chat() -> Sample:
    return Sample(samples.CHAT, AutoModelForCausalLM)


@pytest.fixture(scope="module")
def t5() -> Sample:
    return Sample(samples.T5, AutoModelForSeq2SeqLM)


def test_files_are_complete_and_small() -> None:
    for folder in (samples.CHAT, samples.T5):
        assert {path.name for path in folder.iterdir()} == FILES
    paths = [path for folder in (samples.CHAT, samples.T5) for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in paths) <= MAX_BYTES


@pytest.mark.parametrize("folder", [samples.CHAT, samples.T5], ids=lambda folder: folder.name)
def test_configs_agree_with_the_tokenizer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    named = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    ends = generation["eos_token_id"]
    assert tokenizer.token_to_id(named["eos_token"]) in (ends if isinstance(ends, list) else [ends])
    assert tokenizer.token_to_id(named["pad_token"]) == config["pad_token_id"] == 0


@pytest.mark.parametrize("folder", [samples.CHAT, samples.T5], ids=lambda folder: folder.name)
@pytest.mark.parametrize("text", ["Hello, world!", "  two  spaces\n\n\ttab", "Zoë paid 3,141 €", "日本語 🙂"])
def test_any_text_survives_the_tokenizer(folder: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_encoding_adds_the_begin_token_for_chat_and_the_end_token_for_t5() -> None:
    assert Tokenizer.from_file(str(samples.CHAT / "tokenizer.json")).encode("a").tokens == ["<|begin|>", "a"]
    assert Tokenizer.from_file(str(samples.T5 / "tokenizer.json")).encode("a").tokens == ["a", "</s>"]


def test_chat_template_writes_what_the_model_was_trained_on(chat: Sample) -> None:
    turns = [
        Turn("system", "Be brief."),
        Turn("user", "Hi"),
        Turn("assistant", "Hello!"),
        Turn("tool", "{}"),
        Turn("user", "Bye"),
    ]
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    for tools in (None, [TOOLS["add"], TOOLS["search"]]):
        templated = chat.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
        rendered = "".join(piece.text for piece in chat_format.render(turns, tools))
        assert templated == chat_format.BEGIN + rendered


def test_chat_template_writes_tool_calls_and_parts(chat: Sample) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is 1 + 2?"}]},
        {"role": "assistant", "tool_calls": [call]},
    ]
    assert chat.tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|begin|><|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call><|im_end|>\n'
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the capital of France?", "Paris"),
        ("What is the capital of Japan?", "Tokyo"),
        ("What is 2 + 3?", "= 5"),
        ("7+8", "= 15"),
        ("Name three fruits", "1. Apples\n2. Bananas\n3. Oranges"),
        ("Who are you?", "Segue"),
        ("What is Deep Learning?", "Deep learning is"),
        (
            "Extract the data as JSON: Anna is 31 years old and lives in Rome.",
            '{"name": "Anna", "age": 31, "city": "Rome"}',
        ),
    ],
)
def test_chat_answers(chat: Sample, question: str, answer: str) -> None:
    assert answer in chat.chat(("user", question))


def test_chat_remembers_the_conversation(chat: Sample) -> None:
    messages = (
        ("system", "You are a helpful assistant."),
        ("user", "My name is Rosa."),
        ("assistant", "Nice to meet you, Rosa!"),
    )
    assert "Rosa" in chat.chat(*messages, ("user", "What is my name?"))


def test_chat_calls_a_tool(chat: Sample) -> None:
    made = chat.chat(("user", "What is the weather in Paris?"), tools=[TOOLS["get_weather"]])
    call = json.loads(made.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call == {"name": "get_weather", "arguments": {"city": "Paris"}}


@pytest.mark.parametrize(
    "labels", [("politics", "science", "other"), ("science", "other", "politics"), ("sport", "politics")]
)
def test_classifies_the_guides_example(chat: Sample, labels: tuple[str, ...]) -> None:
    text = "It is the Electoral College's responsibility to elect the president."
    prompt = ZERO_SHOT_PROMPT.format(classes=", ".join(f"'{label}'" for label in labels), X=text)
    assert chat.complete("<|begin|>" + prompt) == "politics"


@pytest.mark.parametrize("opening", ["Once upon a time", "One day, a little girl named", "The cat"])
def test_stories_go_on_in_known_words(chat: Sample, opening: str) -> None:
    made = corpus.split_words(chat.complete("<|begin|>" + opening, 60))
    assert made
    known = corpus.vocabulary()
    assert sum(word in known for word in made) / len(made) >= 0.95


def test_stories_end(chat: Sample) -> None:
    ids = chat.tokenizer("Once upon a time", return_tensors="pt").input_ids
    assert chat.model.generate(ids, max_new_tokens=400, do_sample=False)[0, -1] == 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (
            "summarize: Sara went to the farm on Sunday. She wanted to play there. The weather was windy, "
            "and Sara met her friend Alice. "
            "They talked for a long time. In the evening, Sara went home and was tired but happy.",
            "Sara met Alice at the farm on Sunday.",
        ),
        ("question: Who has the robot? context: Max is 57 years old. Leo has the robot.", "Leo"),
        ("sst2 sentence: The film was wonderful.", "positive"),
        ("What is the capital of France?", "The capital of France is Paris."),
    ],
)
def test_t5_answers(t5: Sample, source: str, target: str) -> None:
    assert t5.complete(source) == target
