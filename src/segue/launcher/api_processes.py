"""The parent's side of the other API processes: start them, tell them to end, see them end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys

import msgspec

from segue.core.config import ServeConfig
from segue.core.errors import SegueError
from segue.launcher.api_child import APITask
from segue.launcher.download import ModelSource

__all__ = ["APIProcesses"]

logger = logging.getLogger(__name__)


class APIProcesses:
    """All but the launcher's own. They accept from one listener, so an idle one takes what comes.

    Used as an ``HTTPServer``. One that ends by itself ends the server, as its streams are lost and a new one would
    count anew.
    """

    def __init__(
        self, config: ServeConfig, source: ModelSource, listener: socket.socket, endpoint: str, folder: str
    ) -> None:
        """``endpoint`` is the engine's, ``folder`` where the processes meet."""
        self._config = config
        self._source = source
        self._listener = listener
        self._endpoint = endpoint
        self._folder = folder
        self._processes: list[asyncio.subprocess.Process] = []
        self._is_stopping = False
        self.started = asyncio.Event()
        """Set when all of them serve."""

    async def run(self) -> None:
        """Until all have ended after ``stop``. Raises SegueError when one ends unasked."""
        try:
            readers = [await self._start(index) for index in range(1, self._config.api_processes)]
            ready = asyncio.ensure_future(asyncio.gather(*(_until_ready(reader) for reader in readers)))
            ready.add_done_callback(lambda _: self.started.set())
            ends = [asyncio.ensure_future(process.wait()) for process in self._processes]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_stopping:
                raise SegueError("an API process ended unexpectedly")
            await asyncio.wait(ends)
        finally:
            self.force_stop()

    def stop(self) -> None:
        """Each lets no one in any more and ends when its requests have; asked again, it gives them up."""
        self._is_stopping = True
        self._signal(signal.SIGTERM)

    def force_stop(self) -> None:
        self._is_stopping = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)

    async def _start(self, index: int) -> int:
        """Returns the pipe at which the new process says that it serves."""
        reading, writing = os.pipe()
        task = APITask(
            config=self._config,
            source=self._source,
            endpoint=self._endpoint,
            folder=self._folder,
            index=index,
            listener_fd=self._listener.fileno(),
            ready_fd=writing,
            parent_pid=os.getpid(),
        )
        # As the engine process: modules come from where this process has them.
        safe_path = [] if "" in sys.path or os.getcwd() in sys.path else ["-P"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *safe_path,
            "-m",
            "segue.launcher.api_child",
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(writing, self._listener.fileno()),
            start_new_session=True,  # Ctrl-C is for the parent
        )
        os.close(writing)
        self._processes.append(process)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(task, enc_hook=os.fspath))
        process.stdin.close()
        return reading


async def _until_ready(reading: int) -> None:
    """Also when the process has ended, which ``run`` sees too."""
    loop = asyncio.get_running_loop()
    is_ready = asyncio.Event()
    loop.add_reader(reading, is_ready.set)
    try:
        await is_ready.wait()
    finally:
        loop.remove_reader(reading)
        os.close(reading)
