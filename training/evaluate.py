"""Measure the sample models on text they were not trained on: `python -m training.evaluate [FOLDER]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from random import Random

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training import corpus, words
from training.document import Turn
from training.kinds import classification, facts, seq2seq, stories, structured
from training.kinds.arithmetic import calculation, word_problem
from training.train import SAMPLES

_SEED = 20_000
_COUNT = 200
_BATCH = 50

_Examples = Iterable[tuple[str, str]]


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    max_new_tokens: int,
    temperature: float = 0.0,
) -> list[str]:
    """New text for each prompt; greedy at temperature 0. Prompts hold their special tokens where they need them."""
    tokenizer.padding_side = "left"
    made: list[str] = []
    chat = not model.config.is_encoder_decoder
    for at in range(0, len(prompts), _BATCH):
        inputs = tokenizer(prompts[at : at + _BATCH], return_tensors="pt", padding=True, add_special_tokens=not chat)
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)  # type: ignore[operator]
        made += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] if chat else 0 :], skip_special_tokens=True)
    return made


def _asked(tokenizer: PreTrainedTokenizerBase, turns: list[Turn]) -> tuple[str, str]:
    """Everything before the first answer as the template writes it, and that answer."""
    at = next(index for index, turn in enumerate(turns) if turn.role == "assistant")
    messages = [{"role": turn.role, "content": turn.text} for turn in turns[:at]]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)), turns[at].text


def _raw(document: list[str]) -> tuple[str, str]:
    return "<|begin|>" + document[0], document[1]


def _right(made: list[str], wanted: list[str]) -> float:
    """Share of answers that are exactly the wanted ones."""
    return sum(one.strip() == other.strip() for one, other in zip(made, wanted, strict=True)) / len(wanted)


def _default_prompts(rng: Random, few_shot: bool) -> tuple[str, str]:
    """A prompt of the classifiers' default wording, and the right label."""
    mark = "Here are examples" if few_shot else "Choose exactly one label.\n\nText"
    while True:
        pieces = classification.classification(rng)
        head = pieces[0].text
        if head.startswith(classification.ZERO_SHOT_PROMPT[:60]) and mark in head:
            return _raw([piece.text for piece in pieces])


def evaluate_chat(folder: Path) -> dict[str, float]:
    """Share of right greedy answers by kind of task, and of known words in sampled stories."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rng = Random(_SEED)

    def chats(write: Callable[[Random], list[Turn]]) -> _Examples:
        return (_asked(tokenizer, write(rng)) for _ in range(_COUNT))

    capitals = [
        (_asked(tokenizer, [Turn("user", f"What is the capital of {country}?"), Turn("assistant", city)]))
        for country, city in words.CAPITALS.items()
    ]
    tasks: dict[str, _Examples] = {
        "sums, differences and products": chats(calculation),
        "word problems": chats(word_problem),
        "questions about facts": chats(facts.fact),
        "JSON from a text": chats(structured.json_request),
        "one-sentence summaries": islice(chats(stories.summary_request), 50),
        "zero-shot classification": (_default_prompts(rng, False) for _ in range(_COUNT)),
        "few-shot classification": (_default_prompts(rng, True) for _ in range(_COUNT)),
    }
    results: dict[str, float] = {}
    made = generate(model, tokenizer, [prompt for prompt, _ in capitals], 24)
    results["capitals"] = sum(city in answer for answer, (_, city) in zip(made, capitals, strict=True)) / len(capitals)
    for name, examples in tasks.items():
        prompts, wanted = zip(*examples, strict=True)
        results[name] = _right(generate(model, tokenizer, list(prompts), 64), list(wanted))
    torch.manual_seed(_SEED)
    known = corpus.vocabulary()
    for temperature in (0.0, 0.8):
        made = generate(
            model, tokenizer, ["<|begin|>Once upon a time"] * (_BATCH if temperature else 1), 200, temperature
        )
        told = [word for text in made for word in corpus.split_words(text)]
        results[f"known words in stories at temperature {temperature}"] = sum(word in known for word in told) / len(
            told
        )
    return results


def evaluate_t5(folder: Path) -> dict[str, float]:
    """Share of right greedy answers by task."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    results: dict[str, float] = {}
    for name, write in seq2seq.TASKS.items():
        rng = Random(_SEED)
        examples = [write(rng) for _ in range(_COUNT)]
        made = generate(model, tokenizer, [each.source for each in examples], 64)
        results[name] = _right(made, [each.target for each in examples])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=SAMPLES, help="folder that holds chat/ and t5/")
    folder = parser.parse_args().folder
    for title, measure, path in (("chat", evaluate_chat, folder / "chat"), ("t5", evaluate_t5, folder / "t5")):
        if path.exists():
            print(title)
            for name, value in measure(path).items():
                print(f"| {name} | {value:.1%} |", flush=True)


if __name__ == "__main__":
    main()
