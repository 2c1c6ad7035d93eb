"""HTTP in this process, the engine in one that somebody else started (TGI's ``text-generation-router``)."""

import asyncio
import functools
import logging
import socket

from segue.core.config import ServeConfig
from segue.core.errors import EngineDeadError
from segue.core.limits import RouterLimits
from segue.engine.remote import RemoteEngine
from segue.launcher.download import ModelSource, find_text
from segue.launcher.processes import Launcher, load_text, run_launcher
from segue.server.token_lane import new_lane

__all__ = ["route"]

WAITING_NOTE_S = 10.0

logger = logging.getLogger(__name__)


def route(config: ServeConfig, socket_path: str) -> None:
    """Serve until a signal to stop, then drain; the engine goes on. To be called in the main thread.

    Raises:
        ConfigError: also when the engine cannot hold what ``config`` asks for.
        DownloadError, PortError, WebserverError: as ``segue.launcher.processes.serve``.
    """
    run_launcher(config, find_text, functools.partial(_Router, socket_path))


class _Router(Launcher):
    """One run of the router. An engine that ends and is started again is found again."""

    def __init__(self, socket_path: str, config: ServeConfig, source: ModelSource, listener: socket.socket) -> None:
        super().__init__(config, source, listener)
        self._socket_path = socket_path

    async def run(self) -> None:
        self._listen_to_signals()
        model = load_text(self._config, self._source)
        handle = RemoteEngine(f"ipc://{self._socket_path}", _limits(self._config), new_lane())
        connecting = asyncio.create_task(self._connect(handle))
        engine = asyncio.create_task(_outlives_the_router())
        try:
            if await self._until(asyncio.wait((connecting,)), engine):
                connecting.result()
                if self._config.max_batch_total_tokens is not None:
                    logger.warning("`--max-batch-total-tokens` is deprecated: the engine's memory decides")
                await self._serve_http(handle, model, engine)
        finally:
            connecting.cancel()
            engine.cancel()
            await asyncio.gather(connecting, engine, return_exceptions=True)
            await handle.close()

    async def _connect(self, handle: RemoteEngine) -> None:
        """Raises ConfigError when the engine refuses this router's limits."""
        while True:
            try:
                return await handle.connect(WAITING_NOTE_S)
            except EngineDeadError:
                logger.info("Waiting for shard to be ready... none answers at %s", self._socket_path)


def _limits(config: ServeConfig) -> RouterLimits:
    return RouterLimits(
        max_input_tokens=config.max_input_tokens,
        max_total_tokens=config.max_total_tokens,
        max_batch_prefill_tokens=config.max_batch_prefill_tokens,
        max_batch_size=config.max_batch_size,
        waiting_served_ratio=config.waiting_served_ratio,
        max_waiting_tokens=config.max_waiting_tokens,
    )


async def _outlives_the_router() -> None:
    await asyncio.Event().wait()
