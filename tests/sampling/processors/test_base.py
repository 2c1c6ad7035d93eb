import pytest
import torch
from sampling.rows import letters_compiler, prepared, random_logits, row

from segue.core.grammar import Grammar
from segue.core.request import SamplingParams
from segue.sampling.grammar import GrammarStates
from segue.sampling.processors.base import Column
from segue.sampling.sampler import Sampler

ASKS = {
    "Watermark": {"watermark": True},
    "RepetitionPenalty": {"repetition_penalty": 1.5},
    "FrequencyPenalty": {"frequency_penalty": 1.0},
    "PresencePenalty": {"presence_penalty": 1.0},
    "LogitBias": {"logit_bias": ((0, 1.0),)},
    "GrammarMask": {"grammar": Grammar("regex", "[a-z]*")},
    "Temperature": {"temperature": 0.5},
    "TopK": {"top_k": 5},
    "TopP": {"top_p": 0.5},
    "TypicalP": {"typical_p": 0.5},
}
COMPILER = letters_compiler(1501)
HELD = prepared(COMPILER, Grammar("regex", "[a-z]*"))


def processors(vocab_size):
    return Sampler(vocab_size, grammars=GrammarStates(COMPILER)).processors


PROCESSORS = processors(101)
by_name = pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: type(p).__name__)


def test_every_processor_is_in_the_table():
    assert [type(p).__name__ for p in PROCESSORS] == list(ASKS)


@by_name
def test_nobody_asked(processor):
    assert processor.columns([row(), row(do_sample=True), row(seed=7)]) is None


@by_name
def test_rows_that_did_not_ask_keep_their_bits(processor):
    logits = random_logits(5, 101)
    asks = ASKS[type(processor).__name__]
    rows = [row(), row(**asks), row(do_sample=True), row(**asks), row()]
    columns = processor.columns(rows)
    assert columns is not None
    after = processor.apply(logits.clone(), columns)
    for i, r in enumerate(rows):
        assert torch.equal(after[i], logits[i]) == (r.params in (SamplingParams(), SamplingParams(do_sample=True))), i


@by_name
def test_each_row_is_processed_as_if_alone(processor):
    logits = random_logits(4, 101)
    asks = ASKS[type(processor).__name__]
    rows = [row(history=[i, i + 1, i + 1], **asks) for i in range(4)]
    together = processor.apply(logits.clone(), processor.columns(rows))
    for i, r in enumerate(rows):
        alone = processor.apply(logits[i : i + 1].clone(), processor.columns([r]))
        assert torch.equal(together[i], alone[0]), i


@by_name
def test_greedy_safe_means_that_asking_makes_a_row_sample(processor):
    assert row(**ASKS[type(processor).__name__]).params.is_sampling == processor.greedy_safe


@by_name
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("vocab_size", [101, 1501])
def test_a_broken_row_hurts_no_other(processor, bad, vocab_size):
    processor = next(p for p in processors(vocab_size) if type(p) is type(processor))
    rows = [row(**ASKS[type(processor).__name__]) for _ in range(3)]
    logits = random_logits(3, vocab_size)
    whole = processor.apply(logits.clone(), processor.columns(rows))
    logits[1] = bad
    broken = processor.apply(logits.clone(), processor.columns(rows))
    assert torch.equal(broken[::2], whole[::2])


def test_column_of_all_and_of_some_rows():
    logits = random_logits(3, 7)
    every = Column.of([2.0, 3.0, 4.0], off=1.0)
    assert every is not None
    assert every.take(logits) is logits
    some = Column.of([1.0, 3.0, 4.0], off=1.0)
    assert some is not None
    assert (some.rows, some.values) == ((1, 2), (3.0, 4.0))
    part = some.take(logits)
    assert torch.equal(part, logits[1:])
    expected = torch.cat([logits[:1], torch.zeros(2, 7)])
    assert torch.equal(some.put(logits, torch.zeros_like(part)), expected)
    assert Column.of([1.0, 1.0], off=1.0) is None
