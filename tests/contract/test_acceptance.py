"""The acceptance list against the tests that there are."""

from pathlib import Path

import pytest
from contract.acceptance import ROWS, Row, row_ids, row_tests

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shown() -> set[str]:
    return {row for row, _ in row_tests(TESTS)}


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_required], ids=lambda row: row.id)
def test_every_required_row_has_a_test(row: Row, shown: set[str]) -> None:
    assert row.id in shown, row.feature


def test_tests_name_rows_that_there_are(shown: set[str]) -> None:
    assert shown <= {row.id for row in ROWS}


def test_ids_are_read_from_names() -> None:
    assert row_ids("test_V1_V3_messages") == ["V1", "V3"]
    assert row_ids("test_R10") == ["R10"]
    assert row_ids("test_UTF8_text") == row_ids("test_of_R1") == []


def test_the_table() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS) == 121
    assert {row.priority for row in ROWS} == {"M", "S", "O"}
    optional = {row.id for row in ROWS if row.priority == "O" and row.is_required}
    assert optional == {"C3", "C15", "D8", "M2", "P4", "Q6", "Q7", "S10", "V9"}
