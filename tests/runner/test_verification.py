"""Guesses and what is sampled behind them: taken as long as they are equal, forced tokens without regard to samples."""

import pytest

from segue.core.batch import ScheduledSequence
from segue.core.errors import GenerationError
from segue.core.output import TokenOutput
from segue.core.request import SamplingParams
from segue.runner.verification import sampling_rows, verify
from segue.sampling.row import SamplingRow

Result = int | str


def outcome(
    drafts: list[int], results: list[Result], forced: dict[int, tuple[int, ...]] | None = None
) -> tuple[list[int], int, str | None]:
    """Tokens, accepted guesses and failure; a text among ``results`` is an error, ``forced``: what follows a token."""
    rows = [SamplingRow(SamplingParams(), [1], 0, 1 + i, 1) for i in range(len(results))]
    verdict = verify(
        drafts,
        rows,
        [GenerationError(each) if isinstance(each, str) else TokenOutput(each, -1.0) for each in results],
        lambda _, token: tuple(TokenOutput(each, 0.0) for each in (forced or {}).get(token.token_id, ())),
    )
    failure = None
    if verdict.failure is not None:
        row, error = verdict.failure
        assert row in rows
        failure = error.reason
    return [token.token_id for token in verdict.tokens], verdict.num_accepted, failure


@pytest.mark.parametrize(
    ("drafts", "results", "tokens", "num_accepted"),
    [
        ([], [5], [5], 0),
        ([5], [5, 6], [5, 6], 1),
        ([5], [4, 6], [4], 0),
        ([5, 6, 7], [5, 6, 8, 9], [5, 6, 8], 2),
        ([5, 6, 7], [5, 6, 7, 8], [5, 6, 7, 8], 3),
        ([5, 6, 7], [9, 6, 7, 8], [9], 0),
    ],
)
def test_S7_samples_count_as_long_as_guesses_come_true(
    drafts: list[int], results: list[Result], tokens: list[int], num_accepted: int
) -> None:
    assert outcome(drafts, results) == (tokens, num_accepted, None)


@pytest.mark.parametrize(
    ("drafts", "forced", "tokens", "num_accepted"),
    [
        ([5, 6, 7], {5: (6, 7)}, [5, 6, 7, 13], 3),
        ([5, 6, 7], {5: (6,)}, [5, 6, 12], 2),
        ([5, 6, 7], {5: (8,)}, [5, 8], 1),
        ([5, 6], {5: (6, 7, 8)}, [5, 6, 7, 8], 2),
        ([5], {5: (6,)}, [5, 6], 1),
        ([], {10: (6, 7)}, [10, 6, 7], 0),
    ],
)
def test_S10_forced_tokens_take_up_guesses(
    drafts: list[int], forced: dict[int, tuple[int, ...]], tokens: list[int], num_accepted: int
) -> None:
    """What was sampled inside of a forced run (6 comes true here as 11) is not looked at."""
    results: list[Result] = [5 if drafts else 10, 11, 12, 13][: len(drafts) + 1]
    assert outcome(drafts, results, forced) == (tokens, num_accepted, None)


def test_S7_a_place_that_fails() -> None:
    assert outcome([5, 6], ["bad", 6, 7]) == ([], 0, "bad")
    assert outcome([5, 6], [4, "never asked for", 7]) == ([4], 0, None)
    # The last token is run again, so that the failing place comes first in the next step.
    assert outcome([5, 6], [5, "bad", 7]) == ([5], 0, "bad")
    assert outcome([5, 6], [5, 6, "bad"]) == ([5, 6], 1, "bad")


def test_S7_every_place_has_its_own_history_and_random_number() -> None:
    sequence = ScheduledSequence(
        seq_id=4,
        token_ids=[3, 7, 8],
        num_computed_tokens=2,
        block_table=[0, 1],
        sampling=SamplingParams(seed=1),
        needs_token=True,
        history=[1, 2, 3],
        num_prompt_tokens=2,
        seed=9,
        num_draft_tokens=2,
    )
    rows = sampling_rows(sequence)
    assert [list(row.history) for row in rows] == [[1, 2, 3], [1, 2, 3, 7], [1, 2, 3, 7, 8]]
    assert [row.position for row in rows] == [3, 4, 5]
    assert {(row.seed, row.seq_id, row.num_prompt_tokens) for row in rows} == {(9, 4, 2)}
