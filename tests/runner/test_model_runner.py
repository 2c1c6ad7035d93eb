"""The runner's own promises: a sequence with unusable logits fails alone, prompt logprobs equal transformers'."""

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import Served, recorded, save_random_model
from transformers import LlamaConfig, T5Config

from segue.core.output import RequestOutput
from segue.core.request import Request, SamplingParams, StopCriteria
from segue.kernels.scaled_cache import ScaledCache

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
POISON = 5


def _poisoned(folder: Path, kv_cache_dtype: str = "auto") -> Served:
    """A served model in which every prompt that holds the token POISON gives NaN."""
    save_random_model(CONFIG, folder)
    served = Served(folder, kv_cache_dtype=kv_cache_dtype)
    model: Any = recorded(served.recorder.runner.model)
    model.model.embed_tokens.weight[POISON] = float("nan")
    return served


def _run(served: Served, prompts: list[list[int]]) -> list[list[RequestOutput]]:
    for request_id, prompt in enumerate(prompts):
        served.engine.add(
            Request(
                request_id=request_id,
                prompt_token_ids=tuple(prompt),
                sampling=SamplingParams(ignore_eos=True),
                stop=StopCriteria(max_new_tokens=6),
            )
        )
    outputs: list[list[RequestOutput]] = [[] for _ in prompts]
    while served.engine.has_work:
        step = served.engine.step()
        for output in step.outputs if step else ():
            outputs[output.request_id].append(output)
    return outputs


def test_a_sequence_whose_logits_are_nan_fails_alone(tmp_path: Path) -> None:
    served = _poisoned(tmp_path)
    healthy = [7, 8, 9, 10, 11, 12, 13]
    alone = served.generate([healthy], [6])[0]
    bad, good = _run(served, [[20, 21, POISON, 22, 23], healthy])
    assert bad[-1].error is not None
    assert "NaN" in bad[-1].error
    assert [t.token_id for o in good for t in o.tokens] == alone


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "int8"])
def test_what_a_failed_sequence_computed_is_never_found_again(kv_cache_dtype: str, tmp_path: Path) -> None:
    """The same prompt again must fail again, not continue from repaired blocks."""
    served = _poisoned(tmp_path, kv_cache_dtype)
    prompt = [20, 21, POISON, 22, 23, 24, 25, 26, 27]
    for _ in range(2):
        assert _run(served, [prompt])[0][-1].error is not None


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "float16", "int8"])
def test_nothing_that_is_not_finite_stays_in_the_pool(kv_cache_dtype: str, tmp_path: Path) -> None:
    """Padding is read before it is masked: NaN left in a block would reach the block's next owner."""
    served = _poisoned(tmp_path, kv_cache_dtype)
    _run(served, [[20, POISON, 22]])
    for pair in served.recorder.runner.kv_caches:
        for cache in pair:
            assert torch.isfinite(cache.scales if isinstance(cache, ScaledCache) else cache).all()


@pytest.mark.parametrize("budget", [512, 7])
def test_prompt_logprobs_equal_transformers(budget: int, tmp_path: Path) -> None:
    model = save_random_model(CONFIG, tmp_path)
    prompt = [11, 50, 3, 90, 41, 8, 8, 17, 62, 33, 70]
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    served = Served(tmp_path, budget=budget)
    served.engine.add(
        Request(
            request_id=0,
            prompt_token_ids=tuple(prompt),
            sampling=SamplingParams(prompt_logprobs=True),
            stop=StopCriteria(max_new_tokens=2),
        )
    )
    first: RequestOutput | None = None
    while served.engine.has_work:
        step = served.engine.step()
        for output in step.outputs if step else ():
            first = first or output
    assert first is not None
    assert first.prompt_logprobs is not None
    assert first.prompt_logprobs[0] is None
    for i, value in enumerate(first.prompt_logprobs[1:], 1):
        assert value == pytest.approx(expected[i - 1, prompt[i]].item(), abs=1e-4)


def test_a_seed_gives_the_same_text_alone_and_among_fifteen_others(tmp_path: Path) -> None:
    save_random_model(CONFIG, tmp_path)

    def run(num_others: int) -> list[int]:
        served = Served(tmp_path)
        for request_id in range(num_others + 1):
            served.engine.add(
                Request(
                    request_id=request_id,
                    prompt_token_ids=(7, 8, 9) if request_id == 0 else (request_id + 20, request_id),
                    sampling=SamplingParams(do_sample=True, temperature=0.9, seed=1234 + request_id, ignore_eos=True),
                    stop=StopCriteria(max_new_tokens=30),
                )
            )
        ids: list[int] = []
        while served.engine.has_work:
            step = served.engine.step()
            for output in step.outputs if step else ():
                if output.request_id == 0:
                    ids.extend(t.token_id for t in output.tokens)
        return ids

    assert run(0) == run(15)


def test_an_encoder_decoder_shares_one_encoding_among_equal_sources(tmp_path: Path) -> None:
    config = T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    save_random_model(config, tmp_path)
    served = Served(tmp_path)
    source = list(range(3, 25))
    first, second = served.generate([source, source], [8, 8])
    assert first == second
    assert served.num_cached_tokens >= len(source)
