from fakes import make_request

from segue.core.request import SamplingParams
from segue.engine.sequence import Sequence, SequenceStatus


def test_counts() -> None:
    seq = Sequence.from_request(7, make_request(1, [5, 6], max_new_tokens=9, encoder=[1, 2, 3, 4]), enable_caching=True)
    seq.token_ids.append(8)
    assert (seq.num_prompt_tokens, seq.num_output_tokens, seq.num_encoder_tokens) == (2, 1, 4)
    assert seq.max_tokens == 2 + 9 + 4
    assert seq.status is SequenceStatus.WAITING


def test_the_seed_is_the_callers_zero_included() -> None:
    request = make_request(1, sampling=SamplingParams(seed=0))
    assert Sequence.from_request(0, request, enable_caching=True).seed == 0


def test_without_a_seed_each_sequence_draws_its_own_64_bits() -> None:
    seeds = {Sequence.from_request(i, make_request(i), enable_caching=True).seed for i in range(64)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert max(seeds) >= 2**56


def test_prompt_logprobs_keep_a_sequence_out_of_the_caches() -> None:
    request = make_request(1, sampling=SamplingParams(prompt_logprobs=True))
    assert not Sequence.from_request(0, request, enable_caching=True).uses_cache
    assert not Sequence.from_request(0, make_request(1), enable_caching=False).uses_cache
    assert Sequence.from_request(0, make_request(1), enable_caching=True).uses_cache
