"""The bar while weights load: for a person who watches, and for models that take a while."""

import pytest

from segue.core.config import ServeConfig
from segue.launcher.engine_child import LoadProgress
from segue.launcher.progress import WORTH_SHOWING_BYTES, LayersBar, LoadingBar


@pytest.mark.parametrize(
    ("is_terminal", "json_output", "total_bytes", "is_shown"),
    [
        (True, False, WORTH_SHOWING_BYTES, True),
        (True, False, WORTH_SHOWING_BYTES - 1, False),
        (False, False, WORTH_SHOWING_BYTES, False),
        (True, True, WORTH_SHOWING_BYTES, False),
    ],
)
def test_when_it_is_shown(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_terminal: bool,
    json_output: bool,
    total_bytes: int,
    is_shown: bool,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    with LoadingBar(ServeConfig(json_output=json_output)) as bar:
        bar.update(LoadProgress(done_bytes=total_bytes // 2, total_bytes=total_bytes))
        bar.update(LoadProgress(done_bytes=total_bytes, total_bytes=total_bytes))
    assert ("Loading weights" in capsys.readouterr().err) == is_shown


@pytest.mark.parametrize("is_terminal", [False, True])
def test_layers_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    with LayersBar("Calibrating layers") as bar:
        bar.update(3, 8)
    shown = capsys.readouterr().err
    assert ("Calibrating layers" in shown and "3/8" in shown) == is_terminal
