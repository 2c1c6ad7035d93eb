"""An engine that belongs to nobody: ``text-generation-server serve``, for routers and the benchmark to connect to."""

import contextlib
import logging
import signal
import time

from segue.core.config import ServeConfig, environment, extend_environment
from segue.core.errors import ConfigError, EngineDeadError
from segue.launcher.download import find_model
from segue.launcher.engine_child import build_engine
from segue.launcher.engine_process import EngineStartError, engine_environment
from segue.launcher.processes import EngineLostError, Interrupted, stoppable
from segue.launcher.shard_socket import ShardSocket
from segue.launcher.speculation import with_speculation

__all__ = ["serve_engine"]

logger = logging.getLogger(__name__)


def serve_engine(config: ServeConfig, uds_path: str) -> None:
    """Run the engine at ``{uds_path}-0`` until a signal to stop. To be called in the main thread.

    Raises:
        ConfigError: the options cannot be, or another engine has the socket.
        DownloadError, EngineStartError: the model cannot be loaded.
        EngineLostError: the device is lost.
    """
    place = ShardSocket(f"{uds_path}-0")
    if not place.claim():
        raise ConfigError(f"`uds_path`: {place.path} cannot be used; another engine may listen there")
    try:
        with contextlib.suppress(Interrupted), stoppable() as stop_signals:
            _serve(config, place, stop_signals)
    except EngineDeadError as error:
        raise EngineLostError(str(error)) from error
    finally:
        place.release()


def _serve(config: ServeConfig, place: ShardSocket, stop_signals: list[signal.Signals]) -> None:
    from segue.engine.engine_process import run_engine_loop

    if config.otlp_endpoint is not None:
        logger.warning("Traces, the engine's times in them, are exported by the router: give --otlp-endpoint to it")
    started = time.monotonic()
    extend_environment(engine_environment(environment()))  # before torch is loaded
    config, source = with_speculation(config, find_model(config))
    logger.info("Starting shard rank=0: %s in %s", source.model_id, source.folder)
    try:
        engine, info = build_engine(config, source.folder)
    except ConfigError as error:
        raise EngineStartError(str(error)) from error
    logger.info("Shard ready in %.2fs rank=0", time.monotonic() - started)
    logger.info("Server started at unix://%s", place.path)
    run_engine_loop(engine, info, place.endpoint, stop_signals=stop_signals)
    logger.info("Shutting down: running requests are given up")
