"""One AsyncClient for each event loop: connections belong to the loop that opened them."""

import asyncio
import weakref
from collections.abc import Callable

from segue.client import AsyncClient

__all__ = ["LoopClients"]


class LoopClients:
    def __init__(self, new_client: Callable[[], AsyncClient]) -> None:
        self._new_client = new_client
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient]
        self._clients = weakref.WeakKeyDictionary()

    def get(self) -> AsyncClient:
        """The running loop's client."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = self._new_client()
        return client

    async def close(self) -> None:
        """Close the running loop's connections."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
