"""Native sampling gives the tokens that the processors in PyTorch give, on each instruction set."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.core.errors import GenerationError
from segue.core.output import TokenOutput
from segue.core.request import SamplingParams
from segue.sampling.sampler import Sampler, SamplingRow

_native = pytest.importorskip("segue.kernels.cpu._native")
sampling = pytest.importorskip("segue.kernels.cpu.sampling")

Result = TokenOutput | GenerationError

ASKED = {
    "greedy": {},
    "sample": {"do_sample": True},
    "top_k": {"do_sample": True, "top_k": 7},
    "top_k of most": {"do_sample": True, "top_k": 900},
    "top_p": {"do_sample": True, "top_p": 0.8},
    "top_p of nearly all": {"do_sample": True, "top_p": 0.9999, "temperature": 3.0},
    "top_p of one": {"do_sample": True, "top_p": 1e-9},
    "typical_p": {"do_sample": True, "typical_p": 0.6},
    "typical_p of nearly all": {"do_sample": True, "typical_p": 0.9999},
    "alternatives": {"top_n_tokens": 5},
    "alternatives of few": {"do_sample": True, "top_k": 3, "top_n_tokens": 9},
    "many alternatives": {"top_n_tokens": 20},
    "both": {"do_sample": True, "top_k": 50, "top_p": 0.9, "temperature": 0.7},
    "all": {"do_sample": True, "top_k": 200, "top_p": 0.95, "typical_p": 0.9, "repetition_penalty": 1.3},
}


@pytest.fixture(autouse=True, params=_native.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = _native.isa(), _native.num_threads()
    _native.use_isa(request.param)
    _native.set_num_threads(3)
    yield request.param
    _native.use_isa(before)
    _native.set_num_threads(threads)


def rows_of(num_rows: int, top_n_tokens: int = 0, **asked: object) -> list[SamplingRow]:
    params = SamplingParams(top_n_tokens=top_n_tokens, **asked)  # type: ignore[arg-type]
    return [SamplingRow(params, [1, 2, 3], seed, 3, 2) for seed in range(num_rows)]


def by_pytorch(logits: Tensor, rows: list[SamplingRow]) -> list[Result]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "can_run", lambda logits: False)
        return Sampler(logits.shape[1]).sample(logits, rows)


def assert_same(ours: list[Result], theirs: list[Result]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, GenerationError) or isinstance(mine, GenerationError):
            assert str(mine) == str(other)
            continue
        assert mine.token_id == other.token_id
        assert mine.logprob == pytest.approx(other.logprob, abs=2e-6, rel=1e-6)
        assert [token_id for token_id, _ in mine.top_tokens] == [token_id for token_id, _ in other.top_tokens]


@pytest.mark.parametrize("vocab_size", [1000, 4097])
@pytest.mark.parametrize("name", ASKED)
def test_same_tokens(name: str, vocab_size: int) -> None:
    """Half of the rows have many equal logits, as bfloat16 weights give."""
    torch.manual_seed(len(name))
    logits = torch.randn(40, vocab_size) * 3
    logits[::2] = logits[::2].bfloat16().float()
    logits[4:8] *= 0.01  # all probable
    logits[8:12] *= 20  # one is
    logits[12:16, 5:] = -torch.inf
    rows = rows_of(40, **ASKED[name])
    assert_same(Sampler(vocab_size).sample(logits, rows), by_pytorch(logits, rows))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    logits, sampler = torch.randn(len(ASKED), 1000) * 2, Sampler(1000)
    rows = [rows_of(len(ASKED), **asked)[i] for i, asked in enumerate(ASKED.values())]
    together = sampler.sample(logits, rows)
    assert together == [sampler.sample(logits[i : i + 1], rows[i : i + 1])[0] for i in range(len(ASKED))]


def test_the_chosen_token_has_the_same_logprob_among_its_alternatives() -> None:
    torch.manual_seed(0)
    logits, sampler = torch.randn(5, 333), Sampler(333)
    with_tops = sampler.sample(logits, rows_of(5, top_n_tokens=3))
    for row, alone in zip(with_tops, sampler.sample(logits, rows_of(5)), strict=True):
        assert isinstance(row, TokenOutput)
        assert isinstance(alone, TokenOutput)
        assert row.top_tokens[0] == (row.token_id, row.logprob)
        assert row.logprob == alone.logprob


def test_rows_that_have_no_distribution() -> None:
    logits = torch.zeros(6, 130)
    logits[0, 129] = torch.nan
    logits[1, 3] = torch.inf
    logits[2] = -torch.inf
    logits[3, 64:] = -torch.inf
    logits[4, 1:] = -3e38
    for name in ("greedy", "sample", "top_p", "both"):
        rows = rows_of(6, **ASKED[name])
        assert_same(Sampler(130).sample(logits, rows), by_pytorch(logits, rows))


def test_a_greedy_row_of_many_pieces() -> None:
    """The largest logit in any of them, twice, behind masked ones; NaN and infinity where they are least expected."""
    torch.manual_seed(0)
    vocab_size = 20_001
    logits = torch.randn(9, vocab_size) * 4
    logits[0, :9000] = -torch.inf
    logits[1, [8191, 8192]] = 30.0
    logits[2, [500, 20_000]] = 30.0
    logits[3, 20_000] = 31.0
    logits[4, 1:] = -torch.inf
    logits[5, 0] = torch.nan
    logits[6, 20_000] = torch.nan
    logits[7, 10_000] = torch.inf
    logits[8] -= 200
    assert_same(Sampler(vocab_size).sample(logits, rows_of(9)), by_pytorch(logits, rows_of(9)))


def test_views_of_wider_rows() -> None:
    """The logits of a padded vocabulary."""
    torch.manual_seed(0)
    logits = torch.randn(7, 500)[:, :450]
    rows = rows_of(7)
    assert_same(Sampler(450).sample(logits, rows), by_pytorch(logits, rows))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_top_p_keeps_the_same_ids(data: st.DataObject) -> None:
    """Few distinct logits, so that thresholds fall among equals; masked ids; one id."""
    vocab_size = data.draw(st.integers(1, 200))
    values = st.sampled_from([0.0, -0.0, 1.0, 1.0000001, -2.5, 7.0, -90.0, -torch.inf])
    row = data.draw(st.lists(values, min_size=vocab_size, max_size=vocab_size))
    if max(row) == -torch.inf:
        row[0] = 0.5
    share = data.draw(st.floats(0.001, 0.9999))
    logits = torch.tensor([row])
    rows = rows_of(1, do_sample=True, top_p=share)
    processed, expected = logits.clone(), logits.clone()
    (processor,) = (each for each in Sampler(vocab_size).processors if type(each).__name__ == "TopP")
    columns = processor.columns(rows)
    processed = processor.apply(processed, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "can_run", lambda logits: False)
        expected = processor.apply(expected, columns)
    assert torch.equal(processed, expected), (row, share)
