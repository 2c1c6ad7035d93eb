"""The one proof of a model family: random weights, odd shapes, and the same ids and logits as ``transformers``.

``check_family(hf_config, tmp_path)`` saves a random model, runs it through the real scheduler, cache and runner in
every way a request can run (alone, in a mixed batch of 16, in prefill chunks of 7 tokens, from a warm prefix cache,
after preemption) and compares greedy ids over 40 tokens and logits with ``transformers``.
"""

import copy
import random
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from segue.core.request import Request, SamplingParams, StopCriteria
from segue.engine.config import EngineConfig
from segue.engine.engine import Engine
from segue.engine.gathering import Gathering
from segue.kernels import cpu
from segue.runner.build import ModelFacts, build_runner
from segue.runner.config import RunnerConfig
from segue.runner.model_runner import ModelRunner
from segue.runner.native_model import NativeModel

NUM_NEW_TOKENS = 40
TOLERANCE = 1e-4
BLOCK_SIZE = 4


@dataclass
class Recorder:
    """A runner that also keeps the logits row behind every token, and runs what it can as a plain step too."""

    runner: ModelRunner
    logits: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inner = self.runner.sampler.sample

        def sample(logits: torch.Tensor, rows: Any) -> Any:
            for each, row in zip(logits, rows, strict=True):
                self.logits.setdefault(row.position, []).append(each.float().clone())
            return inner(logits, rows)

        self.runner.sampler.sample = sample  # type: ignore[method-assign]
        self.plain_step, self.runner.plain_step = self.runner.plain_step, None

    def execute(self, batch: Any) -> Any:
        if batch.max_steps > 1:
            self.runner.plain_step = self.plain_step
            output = self.runner.execute(batch)
            self.runner.plain_step = None
            return output
        output = self.runner.execute(batch)
        if self.plain_step is None or output.errors:
            return output
        done = self.plain_step.run(batch)
        if done is not None:
            for sequence, (token,) in zip(batch.sequences, done[0], strict=True):
                (expected,) = output.tokens[sequence.seq_id]
                assert token.token_id == expected.token_id
                assert abs(token.logprob - expected.logprob) < 1e-5
        return output


def save_random_model(
    config: transformers.PretrainedConfig, folder: Path, *, seed: int = 0, gain: float = 1.5, embedding_std: float = 0.2
) -> Any:
    """A random model, saved to ``folder``; returned in float32."""
    torch.manual_seed(seed)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    model = auto.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name or "wte" in name or "shared" in name:
                parameter.normal_(0, embedding_std)
            elif parameter.dim() > 1:
                parameter.normal_(0, gain / parameter.shape[-1] ** 0.5)
            elif "norm" in name or "ln" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.normal_(0, 0.1)
    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    model.config.forced_eos_token_id = None
    model.save_pretrained(folder)
    return model


SCALES = ((1.5, 0.2), (3.0, 0.05), (0.7, 1.0), (0.7, 0.2), (3.0, 0.2), (3.0, 1.0), (0.3, 0.5))
"""(gain, embedding_std) to try: which of them makes a random model say many different tokens differs by family."""


def save_talkative_model(
    config: transformers.PretrainedConfig,
    folder: Path,
    prompts: Seq[Seq[int]],
    seed: int,
    amplifies_rounding: bool = False,
) -> list[tuple[list[int], list[torch.Tensor]]]:
    """Save a random model whose greedy output is varied enough to prove something; its ids and logits per prompt.

    ``amplifies_rounding``: random models of this config often do, see ``_own_error``; such ones are passed over.
    """
    for attempt in range(4):
        for gain, embedding_std in SCALES:
            model = save_random_model(config, folder, seed=seed + attempt, gain=gain, embedding_std=embedding_std)
            expected = [reference_ids(model, prompt) for prompt in prompts]
            if len({token for ids, _ in expected for token in ids}) <= 6:
                continue
            if not amplifies_rounding or _own_error(model, prompts, expected) < TOLERANCE / 4:
                return expected
    raise AssertionError("every random model of this config says too little to prove anything")


def _own_error(model: Any, prompts: Seq[Seq[int]], expected: list[tuple[list[int], list[torch.Tensor]]]) -> float:
    """How far rounding alone takes ``transformers``' logits from those in float64.

    Some random models amplify rounding so much that two right implementations differ by more than the tolerance.
    """
    exact = copy.deepcopy(model).double()
    worst = 0.0
    for prompt, (ids, logits) in zip(prompts, expected, strict=True):
        if model.config.is_encoder_decoder:
            start = [model.generation_config.decoder_start_token_id or model.config.decoder_start_token_id]
            given = {"input_ids": torch.tensor([list(prompt)]), "decoder_input_ids": torch.tensor([start + ids[:-1]])}
        else:
            given = {"input_ids": torch.tensor([[*prompt, *ids[:-1]]])}
        rows = exact(**given).logits[0, -len(ids) :]
        worst = max(worst, (rows - torch.stack(logits)).abs().max().item())
    return worst


def reference_ids(model: Any, prompt: Seq[int]) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy ids and the logits behind each, by ``transformers.generate`` alone."""
    output = model.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=NUM_NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    ids = output.sequences[0].tolist()
    return ids[-NUM_NEW_TOKENS:], [step[0] for step in output.logits]


def recorded(model: Any) -> Any:
    """The model that a runner's native programs were recorded of, or its model where there are none."""
    return model.model if isinstance(model, NativeModel) else model


class Served:
    """One saved model behind our engine."""

    def __init__(
        self,
        folder: Path,
        *,
        num_blocks: int = 400,
        budget: int = 512,
        device: str = "cpu",
        speculate: int = 0,
        draft: Path | None = None,
        kv_cache_dtype: str = "auto",
        runs_ahead: bool = False,
    ) -> None:
        """``draft``: folder of a model that guesses; else past tokens are looked up.

        ``runs_ahead``: several steps at a time, where the runner can do that.
        """
        runner, self.facts = build_runner(
            RunnerConfig(
                model_folder=folder,
                draft_model_folder=draft,
                dtype="float32",
                device=device,
                block_size=BLOCK_SIZE,
                kv_cache_dtype=kv_cache_dtype,
                max_batch_total_tokens=num_blocks * BLOCK_SIZE,
            )
        )
        if device == "cpu" and cpu.is_available() and '"dynamic"' not in (folder / "config.json").read_text("utf-8"):
            assert isinstance(runner.model, NativeModel) or not runner.model.is_recordable, "no native program"
        self.runs_ahead = runs_ahead and runner.can_run_ahead
        self.recorder = Recorder(runner)
        self.engine = Engine(
            EngineConfig(
                block_size=BLOCK_SIZE,
                num_blocks=num_blocks,
                max_batch_size=64,
                max_batch_prefill_tokens=budget,
                long_prompt_boundary=self.facts.long_prompt_boundary,
                num_speculative_tokens=speculate,
                has_draft_model=draft is not None,
                run_ahead=Gathering(60.0) if self.runs_ahead else None,
            ),
            self.recorder,
        )
        self.next_id = 0
        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self.num_drafts = 0
        self.num_accepted = 0
        self.num_steps = 0
        self.num_steps_ahead = 0

    def generate(self, prompts: Seq[Seq[int]], max_new_tokens: Seq[int] | None = None) -> list[list[int]]:
        ids = {self.next_id + i: i for i in range(len(prompts))}
        self.next_id += len(prompts)
        for request_id, i in ids.items():
            self.engine.add(
                _request(self.facts, request_id, prompts[i], max_new_tokens[i] if max_new_tokens else NUM_NEW_TOKENS)
            )
        outputs: dict[int, list[int]] = {request_id: [] for request_id in ids}
        while self.engine.has_work:
            step = self.engine.step()
            if step is None:
                continue
            self.engine.scheduler.check_invariants()
            self.num_steps += 1
            self.num_steps_ahead += step.stats.num_steps - 1
            self.num_preemptions += step.stats.num_preemptions
            self.num_drafts += step.stats.num_draft_tokens
            self.num_accepted += step.stats.num_accepted_tokens
            for output in step.outputs:
                assert output.error is None, output.error
                outputs[output.request_id].extend(token.token_id for token in output.tokens)
                self.num_cached_tokens += output.num_cached_tokens
        return [outputs[request_id] for request_id in ids]


def _request(facts: ModelFacts, request_id: int, prompt: Seq[int], max_new_tokens: int) -> Request:
    is_seq2seq = facts.is_encoder_decoder
    return Request(
        request_id=request_id,
        prompt_token_ids=facts.decoder_start_token_ids if is_seq2seq else tuple(prompt),
        encoder_token_ids=tuple(prompt) if is_seq2seq else None,
        sampling=SamplingParams(ignore_eos=True),
        stop=StopCriteria(max_new_tokens=max_new_tokens),
    )


def check_family(
    config: transformers.PretrainedConfig,
    folder: Path,
    *,
    prompt_lens: Seq[int] = (23, 1, 8),
    seed: int = 0,
    device: str = "cpu",
    speculate: int = 0,
    draft: Callable[[Path], Path] | None = None,
    amplifies_rounding: bool = False,
) -> tuple[int, int]:
    """Raises AssertionError where any way of running differs from ``transformers``.

    ``draft`` makes the draft model's folder from the model's. Returns how much was guessed, and how much came true.
    """
    rng = random.Random(seed)
    vocab_size = config.get_text_config().vocab_size
    prompts = [[rng.randrange(3, vocab_size) for _ in range(n)] for n in prompt_lens]
    expected = save_talkative_model(config, folder, prompts, seed, amplifies_rounding)
    options: dict[str, Any] = {
        "device": device,
        "speculate": speculate,
        "draft": None if draft is None else draft(folder),
    }

    for prompt, (ids, logits) in zip(prompts, expected, strict=True):
        served = Served(folder, **options)
        assert served.generate([prompt]) == [ids], "alone"
        if speculate:
            continue
        rows = [served.recorder.logits[key][0] for key in sorted(served.recorder.logits)]
        worst = max((ours.cpu() - theirs).abs().max().item() for ours, theirs in zip(rows, logits, strict=True))
        assert worst < TOLERANCE, f"logits differ by {worst}"

    return _check_mixed_batch(folder, prompts, [ids for ids, _ in expected], rng, vocab_size, options)


def _check_mixed_batch(
    folder: Path,
    prompts: list[list[int]],
    expected: list[list[int]],
    rng: random.Random,
    vocab_size: int,
    options: dict[str, Any],
) -> tuple[int, int]:
    others = [[rng.randrange(3, vocab_size) for _ in range(rng.randrange(1, 40))] for _ in range(16 - len(prompts))]
    lens = [NUM_NEW_TOKENS] * len(prompts) + [rng.randrange(1, NUM_NEW_TOKENS) for _ in others]
    count = len(prompts)

    served = Served(folder, **options)
    assert served.generate(prompts + others, lens)[:count] == expected, "in a mixed batch of 16"
    warm = served.num_cached_tokens
    assert served.generate(prompts) == expected, "from a warm cache"
    assert served.num_cached_tokens > warm, "the second run found nothing in the cache"

    chunked = Served(folder, budget=7, runs_ahead=True, **options)
    assert chunked.generate(prompts + others, lens)[:count] == expected, "in prefill chunks of 7"
    if chunked.runs_ahead and not options["speculate"]:
        assert chunked.num_steps_ahead > 0, "one step at a time"

    longest = max(len(p) for p in prompts + others) + NUM_NEW_TOKENS
    tight = Served(folder, num_blocks=2 * -(-2 * longest // BLOCK_SIZE), runs_ahead=True, **options)
    assert tight.generate(prompts + others, lens)[:count] == expected, "with preemption"
    assert tight.num_preemptions > 0, "memory was not tight enough to preempt anything"
    for each in (served, chunked, tight):
        blocks = each.engine.scheduler.blocks
        assert blocks.num_free_blocks == blocks.num_blocks, "blocks leak"
    return sum(each.num_drafts for each in (served, chunked, tight)), sum(
        each.num_accepted for each in (served, chunked, tight)
    )
