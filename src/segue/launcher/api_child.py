"""Another API process: ``python -m segue.launcher.api_child``, told what to do on standard input.

Serves on the launcher's listener, for the launcher's engine, until SIGTERM or the launcher's end.
"""

import asyncio
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from segue.core.config import ServeConfig
from segue.engine.remote import RemoteEngine
from segue.launcher.download import ModelSource
from segue.launcher.engine_child import end_with_parent
from segue.launcher.logs import set_up_logging
from segue.launcher.processes import Launcher, load_text, run_until_signal
from segue.server.siblings import Siblings
from segue.server.token_lane import new_lane

__all__ = ["APITask", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class APITask:
    """Parent → child, on standard input, as JSON."""

    config: ServeConfig
    source: ModelSource
    endpoint: str
    """The engine's."""
    folder: str
    """Where the API processes meet."""
    index: int
    """Of this one; the launcher itself is 0."""
    listener_fd: int
    ready_fd: int
    """Where this process writes one byte when it serves."""
    parent_pid: int


def _path(kind: type, text: str) -> Path:
    """The only type here that JSON has not."""
    return Path(text)


def main() -> int:
    """Returns the exit code."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=APITask, dec_hook=_path)
    end_with_parent(task.parent_pid)
    set_up_logging(task.config.log_level, json_output=task.config.json_output)
    os.set_inheritable(task.ready_fd, False)
    listener = socket.socket(fileno=task.listener_fd)
    listener.set_inheritable(False)
    run_until_signal(lambda: _APIProcess(task, listener).run())
    return 0


class _APIProcess(Launcher):
    """One run. An engine that is started again is found again, as by a router."""

    def __init__(self, task: APITask, listener: socket.socket) -> None:
        super().__init__(task.config, task.source, listener)
        self._task = task

    async def run(self) -> None:
        self._listen_to_signals()
        model = load_text(self._config, self._source)
        handle = RemoteEngine(self._task.endpoint, lane=new_lane())
        engine = asyncio.create_task(_supervised_by_the_parent())
        siblings = Siblings(Path(self._task.folder), self._task.index, self._config.api_processes)
        try:
            if await self._until(handle.connect(), engine):
                await self._serve_http(handle, model, engine, siblings)
        finally:
            engine.cancel()
            await handle.close()

    def _metrics_listener(self) -> None:
        """The launcher has it."""

    def _say_connected(self, handle: RemoteEngine) -> None:
        os.write(self._task.ready_fd, b"\n")
        os.close(self._task.ready_fd)


async def _supervised_by_the_parent() -> None:
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
