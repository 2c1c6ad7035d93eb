import json
from pathlib import Path

import pytest

from segue.conformance.results import STANDARD_FILE, Difference, Store, differences
from segue.core.errors import ConfigError


def test_files_lie_where_the_seed_system_has_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.expected(STANDARD_FILE) is None
    collected = store.collect(STANDARD_FILE, {"streaming": "Success"})
    assert collected == tmp_path / "collected_results" / "hf_tgi_test_results.json"
    assert json.loads(collected.read_text()) == {"streaming": "Success"}
    # 4.14 no. 29: collecting must not bless.
    assert not (tmp_path / "expected_results").exists()
    store.expect(STANDARD_FILE, {"streaming": "Success"})
    assert store.expected(STANDARD_FILE) == {"streaming": "Success"}
    store.collect(STANDARD_FILE, {"streaming": "Failed: no"})
    assert store.expected(STANDARD_FILE) == {"streaming": "Success"}


@pytest.mark.parametrize("content", ["{", "[]"])
def test_expected_results_that_are_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "expected_results" / STANDARD_FILE
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(ConfigError, match=STANDARD_FILE):
        Store(tmp_path).expected(STANDARD_FILE)


def test_only_verdicts_are_compared() -> None:
    expected = {"a": "Success", "b": "Failed: so", "c": {"status": "Success", "timestamp": "1"}, "d": "Success"}
    found = {
        "a": "Skipped: why",
        "b": "Failed: otherwise",
        "c": {"status": "Success", "timestamp": "2"},
        "e": "Success",
    }
    assert differences(expected, found) == [
        Difference("a", "Success", "Skipped"),
        Difference("d", "Success", "missing"),
        Difference("e", "missing", "Success"),
    ]
    assert differences(expected, expected) == []
