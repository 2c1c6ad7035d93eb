import pytest
import torch
from sampling.rows import random_logits, row

from segue.core.errors import GenerationError
from segue.sampling.logprobs import TopTokens, prompt_logprobs


def top_tokens(logprobs, *counts):
    top = TopTokens.of(logprobs, [row(top_n_tokens=n) for n in counts])
    return {} if top is None else top.unpack(top.pack().tolist())


def plain(logprobs, n):
    """TGI's rule: everything that is at least the n-th largest; never -inf."""
    nth = sorted(logprobs, reverse=True)[min(n, len(logprobs)) - 1]
    found = [(i, value) for i, value in enumerate(logprobs) if value >= nth and value > -torch.inf]
    return tuple(sorted(found, key=lambda pair: (-pair[1], pair[0])))


@pytest.mark.parametrize("vocab_size", [1, 3, 6, 101])
def test_equals_the_rule(vocab_size):
    logprobs = random_logits(4, vocab_size).log_softmax(-1)
    counts = [5, 0, 1, 2]
    assert top_tokens(logprobs, *counts) == {i: plain(logprobs[i].tolist(), n) for i, n in enumerate(counts) if n}


def test_nobody_asked():
    assert TopTokens.of(random_logits(2, 5), [row(), row()]) is None


@pytest.mark.parametrize("num_ties", [2, 9, 60])
def test_ties_with_the_nth_come_too(num_ties):
    """60 are more than the packed width: they take the second way."""
    logprobs = torch.full((2, 101), -9.0)
    logprobs[0, 7] = logprobs[1, 7] = -1.0
    logprobs[0, 20 : 20 + num_ties] = -2.0
    found = top_tokens(logprobs, 2, 1)
    assert found[0] == ((7, -1.0), *((i, -2.0) for i in range(20, 20 + num_ties)))
    assert found[1] == ((7, -1.0),)


def test_masked_ids_are_left_out():
    logprobs = torch.tensor([[-torch.inf, -0.5, -torch.inf, -1.0], [-torch.inf] * 4])
    assert top_tokens(logprobs, 3, 3) == {0: ((1, -0.5), (3, -1.0)), 1: ()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_prompt_logprobs(dtype):
    logits = random_logits(7, 101).to(dtype)
    ids = [0, 100, 5, 5, 6, 7, 8]
    expected = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids), reduction="none").neg()
    assert prompt_logprobs(logits, ids) == pytest.approx(expected.tolist(), abs=1e-5)
    assert prompt_logprobs(logits[:3], ids[:3]) + prompt_logprobs(logits[3:], ids[3:]) == prompt_logprobs(logits, ids)


def test_prompt_logprobs_of_nothing():
    assert prompt_logprobs(torch.zeros(0, 5), []) == []


def test_prompt_logprobs_may_be_minus_infinity_but_not_nan():
    assert prompt_logprobs(torch.tensor([[0.0, -torch.inf]]), [1]) == [-torch.inf]
    with pytest.raises(GenerationError, match="row 1 of the prompt"):
        prompt_logprobs(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), [1, 0])
