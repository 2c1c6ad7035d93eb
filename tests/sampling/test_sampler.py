import random

import pytest
import torch
from sampling.rows import random_logits, row

from segue.core.errors import GenerationError
from segue.core.output import TokenOutput
from segue.sampling.sampler import Sampler

VOCAB_SIZE = 1501


def mixed_rows(num_rows, vocab_size, seed=0):
    """Every parameter on or off at random; some rows are plain greedy."""
    rng = random.Random(seed)
    return [
        row(
            history=[rng.randrange(vocab_size) for _ in range(rng.randrange(1, 12))],
            seed=rng.getrandbits(64),
            do_sample=rng.random() < 0.5,
            temperature=rng.choice([1.0, 0.7, 1.5]),
            top_k=rng.choice([0, 0, 5, 300]),
            top_p=rng.choice([1.0, 0.3, 0.9, 0.99]),
            typical_p=rng.choice([1.0, 1.0, 0.2, 0.9]),
            repetition_penalty=rng.choice([1.0, 1.3]),
            frequency_penalty=rng.choice([0.0, 0.5]),
            watermark=rng.random() < 0.2,
            top_n_tokens=rng.choice([0, 0, 3]),
        )
        if rng.random() < 0.8
        else row(history=[rng.randrange(vocab_size)])
        for _ in range(num_rows)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab_size", [1, 11, 101, VOCAB_SIZE])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_a_row_gives_the_same_alone_and_in_any_batch(vocab_size, dtype, scale):
    sampler = Sampler(vocab_size)
    logits, rows = random_logits(24, vocab_size, scale).to(dtype), mixed_rows(24, vocab_size)
    together = sampler.sample(logits, rows)
    alone = [sampler.sample(logits[i : i + 1], [r])[0] for i, r in enumerate(rows)]
    assert [t.token_id for t in together] == [t.token_id for t in alone]
    order = random.Random(1).sample(range(24), 17)
    shuffled = sampler.sample(logits[order], [rows[i] for i in order])
    assert [t.token_id for t in shuffled] == [together[i].token_id for i in order]
    for a, b in zip(together, alone, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-5)
        assert [i for i, _ in a.top_tokens] == [i for i, _ in b.top_tokens]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy(dtype):
    logits = random_logits(5, VOCAB_SIZE).to(dtype)
    outputs = Sampler(VOCAB_SIZE).sample(logits, [row()] * 5)
    assert [o.token_id for o in outputs] == logits.argmax(-1).tolist()
    expected = logits.double().log_softmax(-1).amax(-1).tolist()
    assert [o.logprob for o in outputs] == pytest.approx(expected, abs=1e-5)
    assert all(o.top_tokens == () for o in outputs)


def test_greedy_rows_report_processed_logprobs():
    logits = torch.tensor([[4.0, 3.0, 0.0]])
    output = Sampler(3).sample(logits, [row(history=[0], repetition_penalty=2.0, top_n_tokens=2)])[0]
    processed = torch.tensor([2.0, 3.0, 0.0]).log_softmax(-1).tolist()
    assert output.token_id == 1
    assert output.logprob == pytest.approx(processed[1])
    assert [i for i, _ in output.top_tokens] == [1, 0]
    assert [value for _, value in output.top_tokens] == pytest.approx([processed[1], processed[0]])


def test_filtered_alternatives_are_no_top_tokens_and_a_single_candidate_is_certain():
    outputs = Sampler(VOCAB_SIZE).sample(
        random_logits(2, VOCAB_SIZE), [row(top_k=1, top_n_tokens=5), row(top_k=3, top_n_tokens=5)]
    )
    assert outputs[0].logprob == 0.0
    assert outputs[0].top_tokens == ((outputs[0].token_id, 0.0),)
    assert len(outputs[1].top_tokens) == 3


def test_the_order_of_the_steps():
    """Penalty (÷2), then temperature (÷0.5), then top-k 2, then top-p: another order keeps other ids."""
    logits = torch.tensor([[8.0, 5.0, 4.9, 0.0]])
    history = [0]
    output = Sampler(4).sample(
        logits, [row(history, repetition_penalty=2.0, temperature=0.5, top_k=2, top_p=0.7, top_n_tokens=4)]
    )[0]
    # Penalised to 4, id 0 falls out of the top 2; of 10.0 and 9.8 (0.55 and 0.45), 0.7 needs both.
    assert [i for i, _ in output.top_tokens] == [1, 2]
    assert [value for _, value in output.top_tokens] == pytest.approx(
        torch.tensor([10.0, 9.8]).log_softmax(-1).tolist()
    )
    assert [type(p).__name__ for p in Sampler(4).processors] == [
        "Watermark",
        "RepetitionPenalty",
        "FrequencyPenalty",
        "PresencePenalty",
        "LogitBias",
        "GrammarMask",
        "Temperature",
        "TopK",
        "TopP",
        "TypicalP",
    ]


def test_the_callers_logits_stay_as_they_were():
    logits = random_logits(8, VOCAB_SIZE)
    before = logits.clone()
    Sampler(VOCAB_SIZE).sample(logits, mixed_rows(8, VOCAB_SIZE))
    assert torch.equal(logits, before)


def test_logits_that_are_not_contiguous():
    wide = random_logits(8, 2 * VOCAB_SIZE)
    rows = mixed_rows(4, VOCAB_SIZE)
    sampler = Sampler(VOCAB_SIZE)
    strided = wide[::2, ::2]
    assert sampler.sample(strided, rows) == sampler.sample(strided.contiguous(), rows)


def test_no_rows():
    assert Sampler(7).sample(torch.zeros(0, 7), []) == []


def test_logits_of_another_size_are_refused():
    with pytest.raises(AssertionError):
        Sampler(7).sample(torch.zeros(1, 8), [row()])


BROKEN = {
    "a NaN": (lambda v: v.__setitem__(3, torch.nan), "the model's logits hold NaN"),
    "all NaN": (lambda v: v.fill_(torch.nan), "the model's logits hold NaN"),
    "+inf": (lambda v: v.__setitem__(3, torch.inf), "largest logit is inf"),
    "all -inf": (lambda v: v.fill_(-torch.inf), "largest logit is -inf"),
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("vocab_size", [101, VOCAB_SIZE])
def test_a_broken_row_fails_alone(damage, reason, vocab_size):
    sampler = Sampler(vocab_size)
    logits, rows = random_logits(24, vocab_size), mixed_rows(24, vocab_size, seed=3)
    whole = sampler.sample(logits, rows)
    broken = range(0, 24, 3)
    for i in broken:
        damage(logits[i])
    for i, output in enumerate(sampler.sample(logits, rows)):
        if i in broken:
            assert isinstance(output, GenerationError), rows[i]
            assert output.reason.startswith(f"row {i}: ")
            assert reason in output.reason
        else:
            assert output == whole[i]


def test_processing_that_leaves_nothing_fails_the_row():
    """A penalty near zero sends a positive logit to infinity."""
    outputs = Sampler(3).sample(torch.ones(2, 3), [row([0], repetition_penalty=1e-42), row([0])])
    assert isinstance(outputs[0], GenerationError)
    assert "row 0: processing left no token" in outputs[0].reason
    assert isinstance(outputs[1], TokenOutput)


def test_the_watermark_reaches_the_choice():
    history = [7]
    green = torch.randperm(20, generator=torch.Generator().manual_seed(15485863 * 7))[:5].tolist()
    output = Sampler(20, watermark_gamma=0.25, watermark_delta=1.0).sample(
        torch.zeros(1, 20), [row(history, watermark=True, top_n_tokens=5)]
    )[0]
    assert sorted(i for i, _ in output.top_tokens) == sorted(green)
