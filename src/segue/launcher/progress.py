"""Bars on the terminal while weights load, are converted or merged."""

import sys
from typing import TYPE_CHECKING

from segue.core.config import ServeConfig
from segue.launcher.engine_child import LoadProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["BytesBar", "LoadingBar"]

WORTH_SHOWING_BYTES = 256 * 1024**2
"""Less is loaded before a bar could be read."""


class BytesBar:
    """Shown for a large whole, when a person watches; also a context manager."""

    def __init__(self, title: str, *, is_wanted: bool = True) -> None:
        self._title = title
        self._is_wanted = is_wanted and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "BytesBar":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def update(self, done_bytes: int, total_bytes: int) -> None:
        if not self._is_wanted or total_bytes < WORTH_SHOWING_BYTES:
            return
        if self._progress is None:
            self._progress = _new_progress()
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=total_bytes)
        assert self._task is not None
        self._progress.update(self._task, completed=done_bytes)

    def close(self) -> None:
        self._is_wanted = False
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class LoadingBar:
    """Of a server's weights; also a context manager."""

    def __init__(self, config: ServeConfig) -> None:
        self._bar = BytesBar("Loading weights", is_wanted=not config.json_output)

    def __enter__(self) -> "LoadingBar":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def update(self, report: LoadProgress) -> None:
        self._bar.update(report.done_bytes, report.total_bytes)

    def close(self) -> None:
        self._bar.close()


def _new_progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
