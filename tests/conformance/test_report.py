import pytest

from segue.conformance.report import print_report
from segue.conformance.results import Difference

LINES = [
    ("streaming", "Success", 0.25),
    ("image_processing", "Skipped: the model takes no images", 0.0),
    ("request_queue", "Failed: 4 wait, not 3", 1.5),
    ("hftgi_multiplexer", {"status": "Success", "keys": []}, 0.1),
]


@pytest.mark.parametrize("plain", [True, False])
def test_each_check_with_its_verdict_and_reason(capsys: pytest.CaptureFixture[str], plain: bool) -> None:
    print_report([("Standard", LINES, None)], plain=plain)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "Standard"
    for expected in (
        "ok streaming 0.25 s",
        "skip image_processing 0.00 s the model takes no images",
        "FAIL request_queue 1.50 s 4 wait, not 3",
        "ok hftgi_multiplexer 0.10 s",
        "2 ok, 1 failed, 1 skipped, in 1.9 s",
    ):
        assert expected in lines, lines
    assert "--update-expected" in lines[-1]


def test_differences_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([("Standard", LINES, [Difference("streaming", "Failed", "Success")])], plain=True)
    assert capsys.readouterr().out.splitlines()[-1] == "streaming: Success, expected: Failed"


# rich takes [square brackets] for its own markup.
def test_brackets_in_a_reason_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_report([("Standard", [("streaming", "Failed: [red] [/] [0.1]", 0.0)], [])], plain=False)
    assert "[red] [/] [0.1]" in capsys.readouterr().out
