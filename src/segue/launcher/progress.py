"""Bars on the terminal while weights load, are converted or merged."""

import sys
from typing import TYPE_CHECKING, Self

from segue.core.config import ServeConfig
from segue.launcher.engine_child import LoadProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["BytesBar", "LayersBar", "LoadingBar"]

WORTH_SHOWING_BYTES = 256 * 1024**2
"""Less is loaded before a bar could be read."""


class _Bar:
    """Shown when a person watches; also a context manager."""

    def __init__(self, title: str, *, is_wanted: bool = True) -> None:
        self._title = title
        self._is_wanted = is_wanted and sys.stderr.isatty()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def update(self, done: int, total: int) -> None:
        if not self._is_wanted or not self._is_worth_it(total):
            return
        if self._progress is None:
            self._progress = self._new_progress()
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=total)
        assert self._task is not None
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        self._is_wanted = False
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _is_worth_it(self, total: int) -> bool:
        return True

    def _new_progress(self) -> "Progress":
        raise NotImplementedError(f"{type(self).__name__} defines _new_progress")


class BytesBar(_Bar):
    """For a large whole, in bytes."""

    def _is_worth_it(self, total: int) -> bool:
        return total >= WORTH_SHOWING_BYTES

    def _new_progress(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        return Progress(*columns, console=Console(stderr=True), transient=True)


class LayersBar(_Bar):
    """For layers, each of which takes a while."""

    def _new_progress(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=Console(stderr=True), transient=True)


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
