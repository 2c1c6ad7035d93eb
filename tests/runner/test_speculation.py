"""With guesses as without: sampling, penalties, watermark, grammars, logprobs, alternatives, ends."""

import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import edit_weights
from parity import save_random_model
from sampling.rows import letters_tokenizer
from transformers import LlamaConfig, T5Config

from segue.core.grammar import Grammar
from segue.core.output import FinishReason, TokenOutput
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.runner.build import build_runner
from segue.runner.config import RunnerConfig

EOS = 0
VOCAB_SIZE = 300
LLAMA = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    eos_token_id=EOS,
)
T5 = T5Config(
    vocab_size=VOCAB_SIZE, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=7,
    eos_token_id=EOS,
)  # fmt: skip
OBJECT = r'\{"name": "(ab|true|x)+", "values": \[(1|2|3)(, (1|2|3))*\]\}'
GRAMMARS = [
    Grammar("regex", OBJECT),
    Grammar("regex", "(ab|cd|true){4,12}"),
    Grammar("json_schema", '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'),
]


@dataclass
class Result:
    tokens: list[TokenOutput] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    steps: list[int] = field(default_factory=list)
    """Tokens that came in each step."""

    @property
    def ids(self) -> list[int]:
        return [token.token_id for token in self.tokens]


@dataclass
class Run:
    folder: Path
    speculate: int = 0
    draft: Path | None = None
    num_blocks: int = 600
    budget: int = 256
    num_drafts: int = 0
    num_accepted: int = 0
    num_preemptions: int = 0

    def __post_init__(self) -> None:
        config = RunnerConfig(
            model_folder=self.folder,
            draft_model_folder=self.draft,
            device="cpu",
            block_size=4,
            max_batch_total_tokens=4 * self.num_blocks,
        )
        self.runner, self.facts = build_runner(config, tokenizer_json=letters_tokenizer)
        engine_config = EngineConfig(
            num_blocks=self.num_blocks,
            block_size=4,
            max_batch_size=64,
            max_batch_prefill_tokens=self.budget,
            num_speculative_tokens=self.speculate,
            has_draft_model=self.draft is not None,
        )
        self.engine = Engine(engine_config, self.runner, self.runner.grammars)

    def __call__(self, asks: Sequence[tuple[list[int], SamplingParams]], max_new_tokens: int = 50) -> list[Result]:
        is_seq2seq = self.facts.is_encoder_decoder
        for i, (prompt, sampling) in enumerate(asks):
            request = Request(
                request_id=i,
                prompt_token_ids=self.facts.decoder_start_token_ids if is_seq2seq else tuple(prompt),
                encoder_token_ids=tuple(prompt) if is_seq2seq else None,
                sampling=sampling,
                stop=StopCriteria(max_new_tokens=max_new_tokens, eos_token_ids=frozenset({EOS})),
            )
            self.engine.add(request)
        results = [Result() for _ in asks]
        while any(result.finish_reason is None for result in results):
            step = self.engine.step()
            if step is None:
                continue
            self.engine.scheduler.check_invariants()
            self.num_drafts += step.stats.num_draft_tokens
            self.num_accepted += step.stats.num_accepted_tokens
            self.num_preemptions += step.stats.num_preemptions
            for output in step.outputs:
                assert output.error is None, output.error
                result = results[output.request_id]
                result.tokens += output.tokens
                result.steps.append(len(output.tokens))
                result.finish_reason = output.finish_reason
        blocks = self.engine.scheduler.blocks
        assert blocks.num_free_blocks == blocks.num_blocks, "blocks leak"
        return results


def save(config: Any, folder: Path) -> Path:
    """A model with a draft model beside it that is right often."""
    save_random_model(config, folder, gain=2.0, embedding_std=0.6)
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {EOS}}}')
    draft = folder / "draft"
    draft.mkdir()
    for path in folder.glob("*.*"):
        shutil.copy(path, draft)
    generator = torch.Generator().manual_seed(2)
    edit_weights(
        draft,
        lambda weights: {
            name: tensor + 0.05 * tensor.std() * torch.randn(tensor.shape, generator=generator)
            if tensor.dim() > 1
            else tensor
            for name, tensor in weights.items()
        },
    )
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(LLAMA, tmp_path_factory.mktemp("llama"))


def mixture(num: int) -> list[tuple[list[int], SamplingParams]]:
    """Every parameter that looks at the history or at the place."""
    rng = random.Random(num)
    asks = []
    for i in range(num):
        period = [rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randrange(2, 6))]
        asks.append(
            (
                (period * 5)[: rng.randrange(1, 20)],
                SamplingParams(
                    do_sample=rng.random() < 0.6,
                    temperature=rng.choice([0.3, 1.0, 1.2]),
                    top_k=rng.choice([0, 3, 20]),
                    top_p=rng.choice([1.0, 0.8]),
                    typical_p=rng.choice([1.0, 0.9]),
                    repetition_penalty=rng.choice([1.0, 1.0, 1.3]),
                    frequency_penalty=rng.choice([0.0, 0.5]),
                    presence_penalty=rng.choice([0.0, 0.5]),
                    logit_bias=rng.choice([(), ((5, 3.0),)]),
                    watermark=rng.random() < 0.2,
                    top_n_tokens=rng.choice([0, 3]),
                    ignore_eos=rng.random() < 0.5,
                    grammar=rng.choice([None, *GRAMMARS]),
                    seed=i,
                ),
            )
        )
    return asks


def same(results: list[Result], expected: list[Result]) -> None:
    assert [result.ids for result in results] == [result.ids for result in expected]
    assert [result.finish_reason for result in results] == [result.finish_reason for result in expected]
    for ours, theirs in zip(results, expected, strict=True):
        for token, other in zip(ours.tokens, theirs.tokens, strict=True):
            assert token.logprob == pytest.approx(other.logprob, abs=1e-3)
            ours_top = {token_id: logprob for token_id, logprob in token.top_tokens if logprob > -20}
            theirs_top = {token_id: logprob for token_id, logprob in other.top_tokens if logprob > -20}
            assert ours_top == pytest.approx(theirs_top, abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [{}, {"budget": 30}, {"num_blocks": 60}],
    ids=["one batch", "in small chunks", "with preemption"],
)
@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_S10_everything_is_as_without_guesses(llama: Path, kind: str, options: dict[str, Any]) -> None:
    asks = mixture(40)
    expected = Run(llama)(asks)
    run = Run(llama, speculate=4, draft=llama / "draft" if kind == "draft" else None, **options)
    same(run(asks), expected)
    assert run.num_drafts > run.num_accepted > 0
    assert (run.num_preemptions > 0) == ("num_blocks" in options)
    same(run(asks), expected)  # from a warm cache, with the matchers that are left


def test_S10_alone_as_in_company(llama: Path) -> None:
    asks = mixture(12)
    together = Run(llama, speculate=4)(asks)
    alone = Run(llama, speculate=4)
    for ask, expected in zip(asks, together, strict=True):
        same(alone([ask]), [expected])


def test_S10_an_encoder_decoder(tmp_path: Path) -> None:
    folder = save(T5, tmp_path)
    asks = mixture(24)
    run = Run(folder, speculate=4)
    same(run(asks), Run(folder)(asks))
    assert run.num_drafts > run.num_accepted > 20


def test_S10_grammars_and_guesses_save_steps_together(llama: Path) -> None:
    """A JSON list of equal items: its punctuation is forced, its items are looked up."""
    grammar = Grammar("regex", r'(\{"name": "true", "kind": "(ab|cd)"\},?){12}')
    ask = ([3, 4], SamplingParams(grammar=grammar))
    [plain] = Run(llama)([ask], max_new_tokens=400)
    run = Run(llama, speculate=8)
    [guessed] = run([ask], max_new_tokens=400)
    same([guessed], [plain])
    assert len(plain.steps) < len(plain.tokens) / 2
    assert len(guessed.steps) < len(plain.steps)


@pytest.mark.parametrize("length", [1, 2, 3, 17])
def test_S7_a_length_limit_inside_of_accepted_guesses(llama: Path, length: int) -> None:
    ask = ([5, 6, 7] * 5, SamplingParams(ignore_eos=True))
    expected = Run(llama)([ask], max_new_tokens=length)
    assert len(expected[0].ids) == length
    same(Run(llama, speculate=8, draft=llama / "draft")([ask], max_new_tokens=length), expected)


def test_S7_an_end_token_inside_of_accepted_guesses(llama: Path) -> None:
    """The prompt repeats a text with an end token; a bias for each of its tokens has the model say it again."""
    prompt = [11, 12, EOS, 13] * 4 + [11]
    steps = []
    for speculate in (0, 3):
        run = Run(llama, speculate=speculate)
        bias = tuple((token_id, 50.0) for token_id in (11, 12, EOS, 13))
        [result] = run([(prompt, SamplingParams(logit_bias=bias, frequency_penalty=0.0))])
        assert result.finish_reason is FinishReason.EOS_TOKEN
        assert result.ids.count(EOS) == 1
        steps.append(result.ids)
    assert steps[0] == steps[1]


def test_S7_the_prefix_cache_keeps_accepted_tokens_only(llama: Path) -> None:
    """A second round goes on from the answers of the first; whatever it finds must be their own K/V."""
    first = [([i, i + 1] * 6, SamplingParams(ignore_eos=True, seed=i, do_sample=i % 2 > 0)) for i in range(1, 12)]
    rounds = []
    for options in ({}, {"speculate": 5}, {"speculate": 5, "draft": llama / "draft"}):
        run = Run(llama, **options)  # type: ignore[arg-type]
        answers = run(first)
        second = [
            (prompt + result.ids, replace(sampling, seed=7))
            for (prompt, sampling), result in zip(first, answers, strict=True)
        ]
        rounds.append((answers, run(second)))
    for answers, followed in rounds[1:]:
        same(answers, rounds[0][0])
        same(followed, rounds[0][1])


class Poisoned:
    """A model to which one guess is NaN: its K/V, and through the mask all places of its sequence."""

    def __init__(self, inner: Any, kv_caches: Any, poison: int, num_prompt_tokens: int) -> None:
        self._inner, self._kv_caches, self._poison, self._num_prompt_tokens = (
            inner,
            kv_caches,
            poison,
            num_prompt_tokens,
        )
        self.num_poisoned = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, input_ids: torch.Tensor, positions: torch.Tensor, ctx: Any) -> torch.Tensor:
        hidden: torch.Tensor = self._inner(input_ids, positions, ctx)
        if int(positions[0]) >= self._num_prompt_tokens and self._poison in input_ids.tolist():
            self.num_poisoned += 1
            hidden.fill_(torch.nan)
            for pair in self._kv_caches:
                for cache in pair:
                    slots, size = ctx.slot_mapping[1:], cache.shape[1]
                    cache[slots // size, slots % size] = torch.nan
        return hidden


def test_S7_a_sequence_whose_guess_is_poison_goes_on(tmp_path: Path) -> None:
    """A guess that the model cannot take is rejected like any other, and leaves nothing in the pool."""
    poison = 9
    save_random_model(LLAMA, tmp_path)
    prompt = [6, 6, poison, 8, 6]
    ask = (prompt, SamplingParams(logit_bias=((6, 80.0),), ignore_eos=True))
    expected = Run(tmp_path)([ask], max_new_tokens=12)
    run = Run(tmp_path, speculate=4)
    model: Any = Poisoned(run.runner.model, run.runner.kv_caches, poison, len(prompt))
    run.runner.model = model
    same(run([ask], max_new_tokens=12), expected)
    assert model.num_poisoned > 0
    for pair in run.runner.kv_caches:
        for cache in pair:
            assert torch.isfinite(cache).all()
