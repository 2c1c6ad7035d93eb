"""``LLM``: many prompts in, as many outputs out, in order; the same ids as ``transformers``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import segue
from segue.core.errors import ConfigError, GenerationError, ValidationError
from segue.core.output import FinishReason
from segue.core.request import SamplingParams
from segue.launcher import llm as llm_module
from segue.launcher.llm import LLM

GREEDY = SamplingParams(max_new_tokens=12)


@pytest.fixture(scope="module")
def llm(tiny_llama: Path) -> Iterator[LLM]:
    threads = torch.get_num_threads()
    yield LLM(str(tiny_llama), device="cpu", kv_cache_memory="4MB", num_threads=1)
    torch.set_num_threads(threads)


def num_used_blocks(llm: LLM) -> int:
    blocks = llm._engine.scheduler.blocks
    return blocks.num_blocks - blocks.num_free_blocks


def test_the_package_offers_it() -> None:
    assert segue.LLM is LLM
    assert segue.SamplingParams is SamplingParams


def test_greedy_ids_are_those_of_transformers(llm: LLM, tiny_llama: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_llama).eval()
    prompts = ["hello", "a much longer prompt, of many bytes", "x"]
    outputs = llm.generate(prompts, GREEDY)
    for prompt, output in zip(prompts, outputs, strict=True):
        ids = torch.tensor([llm.tokenizer.encode(prompt)])
        expected = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert list(output.token_ids) == expected.tolist()
        assert output.prompt_token_ids == tuple(ids[0].tolist())
        assert output.text == llm.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        assert output.finish_reason in (FinishReason.LENGTH, FinishReason.EOS_TOKEN)
        assert len(output.logprobs) == len(output.token_ids)
        assert all(logprob <= 0 for logprob in output.logprobs)
        assert output.seed is None


def test_one_prompt_text_or_ids_gives_a_list_of_one(llm: LLM) -> None:
    ids = llm.tokenizer.encode("hello")
    (from_text,) = llm.generate("hello", GREEDY)
    (from_ids,) = llm.generate(ids, GREEDY)
    (from_list,) = llm.generate([ids], GREEDY)
    assert from_text.token_ids == from_ids.token_ids == from_list.token_ids
    assert llm.generate([]) == []


def test_parameters_for_each_prompt(llm: LLM) -> None:
    outputs = llm.generate(["a", "b"], [SamplingParams(max_new_tokens=3), SamplingParams(max_new_tokens=5)])
    assert [len(output.token_ids) for output in outputs] == [3, 5]
    with pytest.raises(ValidationError, match="2 prompts, but 1 sampling parameters"):
        llm.generate(["a", "b"], [GREEDY])


def test_a_seed_gives_the_same_text_alone_and_among_others(llm: LLM) -> None:
    seeded = SamplingParams(max_new_tokens=12, temperature=1.5, seed=7)
    (alone,) = llm.generate("hello", seeded)
    others = [SamplingParams(max_new_tokens=12, do_sample=True)] * 7
    among = llm.generate(["hello", *"abcdefg"], [seeded, *others])[0]
    assert among.token_ids == alone.token_ids
    assert alone.seed == 7


def test_the_seed_that_was_drawn_gives_the_text_again(llm: LLM) -> None:
    (first,) = llm.generate("hello", SamplingParams(max_new_tokens=12, do_sample=True))
    (again,) = llm.generate("hello", SamplingParams(max_new_tokens=12, do_sample=True, seed=first.seed))
    assert again.token_ids == first.token_ids


def test_stop_string(llm: LLM) -> None:
    (free,) = llm.generate("hello", SamplingParams(max_new_tokens=12, temperature=0.7, seed=3))
    readable = next(char for char in free.text if char.isascii())
    (stopped,) = llm.generate("hello", SamplingParams(max_new_tokens=12, temperature=0.7, seed=3, stop=(readable,)))
    assert stopped.finish_reason is FinishReason.STOP_SEQUENCE
    assert stopped.text == free.text[: free.text.index(readable) + 1]
    assert num_used_blocks(llm) == 0


def test_details(llm: LLM) -> None:
    params = SamplingParams(max_new_tokens=4, top_n_tokens=2, prompt_logprobs=True)
    (output,) = llm.generate("hello", params)
    assert [len(top) >= 2 for top in output.top_tokens] == [True] * 4
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == 5
    assert output.prompt_logprobs[0] is None


def test_prefix_cache(llm: LLM) -> None:
    prompt = "the same long beginning, again and again and again"
    llm.generate(prompt, GREEDY)
    (second,) = llm.generate(prompt, GREEDY)
    assert second.num_cached_tokens > 0


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("", GREEDY, "cannot be empty"),
        ([300], GREEDY, "below the vocabulary's size, 260"),
        ("x" * 2048, GREEDY, "a prompt must have at most 2047 tokens, this one has 2048"),
        ("x", SamplingParams(max_new_tokens=2048), "with the prompt at most 2048"),
        ("x", SamplingParams(max_new_tokens=0), "`max_new_tokens` must be at least 1"),
        ("x", SamplingParams(temperature=0.0), "`temperature` must be strictly positive"),
        ("x", SamplingParams(top_p=0.0), "`top_p`"),
    ],
)
def test_what_cannot_be_generated(llm: LLM, prompt: Any, params: SamplingParams, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        llm.generate([prompt], params)
    assert num_used_blocks(llm) == 0


def test_an_engine_that_fails_one_request_frees_the_others(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = llm._engine._runner

    def fail(batch: Any) -> Any:
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(runner, "execute", fail)
    with pytest.raises(GenerationError, match="the device is on fire"):
        llm.generate(["a", "b", "c"], GREEDY)
    monkeypatch.undo()
    assert num_used_blocks(llm) == 0
    assert len(llm.generate(["a", "b"], GREEDY)) == 2


def test_progress_bar_on_long_lists(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    short = SamplingParams(max_new_tokens=1)
    llm.generate(["a"] * (llm_module.LONG_LIST + 1), short, use_tqdm=False)
    llm.generate(["a"] * llm_module.LONG_LIST, short)
    assert capsys.readouterr().err == ""
    llm.generate(["a"] * (llm_module.LONG_LIST + 1), short)
    assert "Generating: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("block_size", [16, 8])
def test_the_kind_of_cache(tiny_llama: Path, block_size: int) -> None:
    options: dict[str, Any] = {"device": "cpu", "kv_cache_memory": "4MB", "num_threads": 1, "block_size": block_size}
    kinds = [LLM(str(tiny_llama), kv_cache_dtype=kind, **options) for kind in ("float32", "int8")]
    exact, rounded = (kind.generate([5, 9, 17, 33, 2, 8], SamplingParams(max_new_tokens=4))[0] for kind in kinds)
    assert rounded.logprobs != exact.logprobs
    assert rounded.logprobs[0] == pytest.approx(exact.logprobs[0], abs=0.05)


def test_unknown_options(tiny_llama: Path) -> None:
    with pytest.raises(TypeError, match="unexpected option: max_tokens, port"):
        LLM(str(tiny_llama), port=3000, max_tokens=3)
    with pytest.raises(ConfigError, match="invalid value 'many' for 'max_total_tokens'"):
        LLM(str(tiny_llama), max_total_tokens="many")
