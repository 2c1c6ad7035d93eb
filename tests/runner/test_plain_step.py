"""Plain steps leave to others what they cannot do, and choose tokens as the sampler does.

That greedy ones give the same as other steps, ``parity.py`` shows for every family.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from parity import BLOCK_SIZE, recorded, save_random_model
from transformers import LlamaConfig, T5Config

from segue.core.batch import EncoderInput, ScheduledBatch, ScheduledSequence, StepOutput
from segue.core.output import TokenOutput
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


def batch_of(*sequences: ScheduledSequence, **changes: Any) -> ScheduledBatch:
    return ScheduledBatch(sequences=sequences, num_decode_sequences=0, **changes)


def tokens_of(runner: ModelRunner, batch: ScheduledBatch) -> dict[int, int]:
    output = runner.execute(batch)
    assert output.errors == {}
    return {seq_id: token.token_id for seq_id, (token,) in output.tokens.items()}


def test_prompts_and_tokens_in_one_step(tmp_path: Path) -> None:
    runner = runner_of(LLAMA, tmp_path)
    tokens_of(runner, batch_of(sequence(1, [7, 8, 9, 10, 11, 12])))
    batch = batch_of(sequence(1, [13], 6), sequence(0, [3, 4, 5]), sequence(2, [30]))
    assert runner.plain_step is not None
    done = runner.plain_step.run(batch)
    assert done is not None
    runner.plain_step = None
    assert tokens_of(runner, batch) == {s: t.token_id for s, (t,) in zip((1, 0, 2), done[0], strict=True)}


def test_an_encoder_runs_before(tmp_path: Path) -> None:
    runner = runner_of(T5, tmp_path)
    encoder = EncoderInput(token_ids=[4, 5, 6, 7, 8], block_table=[20, 21], run=True)
    batch = batch_of(sequence(0, [0], encoder=encoder))
    alone = tokens_of(runner, batch)
    for caches in runner.kv_caches:
        for cache in caches:
            assert isinstance(cache, torch.Tensor)
            cache.zero_()
    runner.plain_step = None
    assert tokens_of(runner, batch) == alone


@pytest.mark.parametrize(
    "other",
    [
        {"sampling": SamplingParams(watermark=True)},
        {"sampling": SamplingParams(prompt_logprobs=True)},
        {"needs_token": False},
        {"num_draft_tokens": 1},
    ],
    ids=["watermark", "prompt", "no token", "guesses"],
)
def test_one_sequence_that_wants_more_is_enough(other: dict[str, Any], tmp_path: Path) -> None:
    runner = runner_of(LLAMA, tmp_path)
    assert runner.plain_step is not None
    sequences = [sequence(0, [3, 4, 5]), sequence(1, [6, 7, 8], **other)]
    assert runner.plain_step.run(batch_of(*sequences)) is None
    assert runner.plain_step.run(batch_of(sequences[0])) is not None
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


# Choosing


ASKED: dict[str, dict[str, Any]] = {
    "sample": {"do_sample": True},
    "temperature": {"temperature": 0.6},
    "no temperature": {"temperature": 1e-40, "do_sample": True},
    "top_k": {"top_k": 9},
    "top_k of all": {"top_k": 1000},
    "top_p": {"top_p": 0.7},
    "typical_p": {"typical_p": 0.6},
    "repetition": {"repetition_penalty": 1.7},
    "frequency": {"frequency_penalty": 30.0},
    "presence": {"presence_penalty": 3.0},
    "bias": {"logit_bias": ((11, 40.0), (3, -1.5), (1000, 3.0))},
    "all": {
        "temperature": 1.4,
        "top_k": 60,
        "top_p": 0.95,
        "typical_p": 0.9,
        "repetition_penalty": 1.2,
        "frequency_penalty": -4.0,
        "presence_penalty": -0.5,
        "logit_bias": ((3, 1.0),),
        "top_n_tokens": 7,
    },
    "alternatives": {"top_n_tokens": 3},
    "alternatives of few": {"top_k": 2, "top_n_tokens": 5},
    "greedy": {},
}
NUM_CHOICES = 20


def chosen_by(runner: ModelRunner, seeds: list[int], max_steps: int, together: list[str]) -> list[list[TokenOutput]]:
    """[sequences] ``NUM_CHOICES`` tokens each, ``max_steps`` at a time, all in one batch."""
    texts = [[7 + i, 8, 9, 7 + i, 200][: 5 - i] for i in range(len(together))]
    found: list[list[TokenOutput]] = [[] for _ in together]
    while len(found[0]) < NUM_CHOICES:
        num_new = len(found[0])
        sequences = [
            sequence(
                i,
                text if num_new == 0 else text[-1:],
                0 if num_new == 0 else len(text) - 1,
                sampling=SamplingParams(**ASKED[name]),
                history=text,
                num_prompt_tokens=len(text) - num_new,
                seed=seed,
                block_table=list(range(7 * i, 7 * i + 7)),
            )
            for i, (text, seed, name) in enumerate(zip(texts, seeds, together, strict=True))
        ]
        steps = min(max_steps, NUM_CHOICES - num_new) if num_new else 1
        output = runner.execute(batch_of(*sequences, max_steps=steps))
        assert output.errors == {}
        assert output.num_steps == steps
        for i, text in enumerate(texts):
            text += [token.token_id for token in output.tokens[i]]
            found[i] += output.tokens[i]
    return found


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    config = LlamaConfig(vocab_size=201, hidden_size=32, intermediate_size=48, **SIZES)
    return runner_of(config, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", list(ASKED))
def test_tokens_are_those_of_the_sampler(name: str, chooser: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step at a time by the sampler; in one batch with others and several steps at a time by itself."""
    others = ["all", "greedy", "sample"]
    ahead = chosen_by(chooser, [2**64 - 5, 1, 2, 3], 7, [name, *others])
    single = chosen_by(chooser, [2**64 - 5, 1, 2, 3], 1, [name, *others])
    monkeypatch.setattr(chooser, "plain_step", None)
    expected = chosen_by(chooser, [2**64 - 5, 1, 2, 3], 1, [name, *others])
    assert ahead == expected
    assert single == expected
    if name != "greedy":
        plain = chosen_by(chooser, [0], 1, ["greedy"])
        assert ahead[0] != plain[0], "it changed nothing"


# Several steps


NUM_STEPS = 9
"""More than two blocks."""


@dataclass
class Ahead:
    """Two sequences that go on by themselves, and what they give one step at a time."""

    runner: ModelRunner
    sequences: list[ScheduledSequence]
    expected: list[list[int]]

    def run(self, max_steps: int = NUM_STEPS, **changes: Any) -> StepOutput:
        return self.runner.execute(batch_of(*self.sequences, max_steps=max_steps, **changes))

    def gives(self, output: StepOutput, num_steps: int) -> bool:
        tokens = [[token.token_id for token in output.tokens[s.seq_id]] for s in self.sequences]
        return tokens == [each[:num_steps] for each in self.expected] and output.num_steps == num_steps

    def first_new(self, i: int) -> int:
        """The first step but one that gives sequence ``i`` a token that nobody had."""
        had = [{token for tokens in self.expected for token in tokens[:step]} for step in range(NUM_STEPS)]
        other = self.expected[1 - i]
        steps = range(1, NUM_STEPS - 1)
        return next(step for step in steps if self.expected[i][step] not in had[step] | {other[step]})


@pytest.fixture(params=[LLAMA, T5], ids=["llama", "t5"])
def ahead(request: pytest.FixtureRequest, tmp_path: Path) -> Ahead:
    runner = runner_of(request.param, tmp_path)
    encoders: list[EncoderInput | None] = [None, None]
    if request.param is T5:
        encoders = [EncoderInput(token_ids=[4, 5, 6], block_table=[20], run=True)]
        encoders.append(EncoderInput(token_ids=[7, 8, 9, 10, 11], block_table=[22, 21], run=True))
    prompts = [[7, 8, 9], [3, 4, 5, 6, 10]]
    given = [sequence(i, prompt, encoder=encoders[i]) for i, prompt in enumerate(prompts)]
    first = runner.execute(batch_of(*given))
    texts = [[*prompt, first.tokens[i][0].token_id] for i, prompt in enumerate(prompts)]
    encoders = [None if each is None else replace(each, run=False) for each in encoders]

    def decode(i: int) -> ScheduledSequence:
        return sequence(i, texts[i][-1:], len(texts[i]) - 1, encoder=encoders[i])

    sequences = [decode(i) for i in range(2)]
    for _ in range(NUM_STEPS):
        output = runner.execute(batch_of(*[decode(i) for i in range(2)]))
        assert output.num_steps == 1
        for i, text in enumerate(texts):
            text.append(output.tokens[i][0].token_id)
    return Ahead(runner, sequences, [text[-NUM_STEPS:] for text in texts])


def test_several_steps_give_what_single_ones_do(ahead: Ahead) -> None:
    assert len({token for tokens in ahead.expected for token in tokens}) > 3, "it says too little to prove anything"
    assert ahead.gives(ahead.run(), NUM_STEPS)
    assert ahead.gives(ahead.run(4), 4)


def test_a_stop_token_ends_the_steps(ahead: Ahead) -> None:
    at = ahead.first_new(1)
    stops = frozenset({ahead.expected[1][at], 1000})
    assert ahead.gives(ahead.run(stop_token_ids=stops), at + 1)


def test_news_end_the_steps(ahead: Ahead) -> None:
    reader, writer = os.pipe()
    try:
        assert ahead.gives(ahead.run(news_file=reader), NUM_STEPS)
        os.write(writer, b"!")
        assert ahead.gives(ahead.run(news_file=reader), 1)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_step_without_finite_logits_is_left_to_the_next_call(ahead: Ahead) -> None:
    """The weights give NaN for one token only, which comes later."""
    at = ahead.first_new(0)
    embedding = next(
        p for name, p in recorded(ahead.runner.model).named_parameters() if "embed" in name or "shared" in name
    )
    with torch.no_grad():
        kept = embedding[ahead.expected[0][at]].clone()
        embedding[ahead.expected[0][at]] = torch.nan
        assert ahead.gives(ahead.run(), at + 1)
        embedding[ahead.expected[0][at]] = kept


def test_several_steps_are_of_one_token_each(ahead: Ahead) -> None:
    with pytest.raises(ValueError, match="several steps"):
        ahead.runner.execute(batch_of(sequence(0, [3, 4]), max_steps=2))


def test_slots_for_all_steps_are_needed(ahead: Ahead) -> None:
    with pytest.raises(ValueError, match="block table is too short"):
        ahead.run(100)
