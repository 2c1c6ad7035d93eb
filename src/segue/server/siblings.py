"""The processes that serve one engine on one port: what they count together."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from segue.server.permits import Permits, SharedPermits

__all__ = ["Siblings"]

ANSWER_S = 2.0
"""A process that has not said by then what it counted is left out."""

logger = logging.getLogger(__name__)


class Siblings:
    """One process's view of all of them. They meet in a folder: a socket each, and a file of permits."""

    def __init__(self, folder: Path, index: int, num_processes: int) -> None:
        """``index`` is this process's, from 0."""
        self._folder = folder
        self._index = index
        self._num_processes = num_processes
        self._listener: asyncio.Server | None = None

    def permits(self, total: int) -> Permits:
        """Of all processes together."""
        return SharedPermits(self._folder / "permits", self._index, self._num_processes, total)

    async def open(self, state: Callable[[], bytes]) -> None:
        """Tell the others ``state()`` whenever they ask."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                writer.write(state())
                await writer.drain()
            writer.close()

        self._listener = await asyncio.start_unix_server(answer, self._socket(self._index))

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def states(self) -> list[bytes]:
        """Of all the others that answer."""
        asked = [self._ask(index) for index in range(self._num_processes) if index != self._index]
        return [state for state in await asyncio.gather(*asked) if state is not None]

    async def _ask(self, index: int) -> bytes | None:
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self._socket(index))
                try:
                    return await reader.read(-1) or None
                finally:
                    writer.close()
        except OSError as error:  # TimeoutError is one
            logger.warning("API process %d does not say what it counted: %r", index, error)
            return None

    def _socket(self, index: int) -> str:
        return str(self._folder / f"api-{index}")
