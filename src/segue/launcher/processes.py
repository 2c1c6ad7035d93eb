"""Who runs where: this process listens and speaks HTTP, one child has the engine and the device.

    launcher (this process): options, model's folder, port ── tokenizer, routes, streams
        └── engine process: weights, KV pool, scheduler, steps

The child starts first, so that torch and the weights load while this process imports its own. The port is bound at
once, but nobody is let in before the engine serves; it is supervised from then on.
"""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import os
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from segue.core.config import ServeConfig, environment
from segue.core.errors import ConfigError, SegueError, TemplateError
from segue.engine.remote import RemoteEngine
from segue.launcher.download import ModelSource, find_model
from segue.launcher.engine_process import EngineSupervisor
from segue.launcher.processors import keep_off
from segue.launcher.progress import LoadingBar
from segue.launcher.shard_socket import ShardSocket
from segue.launcher.shards import check_shards
from segue.launcher.speculation import with_speculation
from segue.launcher.tokenizer_files import ensure_tokenizer
from segue.server.token_lane import new_lane

if TYPE_CHECKING:
    from segue.core.memory_plan import ModelDescription
    from segue.launcher.api_processes import APIProcesses
    from segue.launcher.http_server import HTTPServer
    from segue.server.siblings import Siblings
    from segue.server.state import ServedModel
    from segue.text.chat_template import ChatTemplate
    from segue.text.tokenizer import Tokenizer

__all__ = [
    "EngineLostError",
    "Interrupted",
    "Launcher",
    "PortError",
    "WebserverError",
    "bind",
    "load_text",
    "run_launcher",
    "run_until_signal",
    "serve",
    "stoppable",
]

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

LAST_WORDS_S = 2.0
"""For the error events of requests that are given up to reach their callers."""

YOUNG_OBJECTS = 50_000
"""That live, and they are searched for garbage. At Python's 700, hardly more than a request makes, it took 5% of the
time; at 10,000, which 16 requests make together, 2.5%."""

logger = logging.getLogger(__name__)


class EngineLostError(SegueError):
    """The engine died while it served, and none could take its place."""


class WebserverError(SegueError):
    """The HTTP server ended although nobody asked it to."""


class PortError(SegueError):
    """The address cannot be listened on."""


def serve(config: ServeConfig) -> None:
    """Serve until a signal to stop, then drain. To be called in the main thread.

    Raises:
        ConfigError, DownloadError, PortError: nothing was started.
        EngineStartError: the engine could not load the model.
        EngineLostError, WebserverError: serving ended by itself.
    """
    check_shards(config, environment())
    run_launcher(config, find_model, Launcher)


def run_launcher(
    config: ServeConfig,
    find: Callable[[ServeConfig], ModelSource],
    make: "Callable[[ServeConfig, ModelSource, socket.socket], Launcher]",
) -> None:
    """Take the port, find the model, run a launcher until a signal to stop. To be called in the main thread."""
    with (
        contextlib.suppress(Interrupted),
        stoppable(),
        contextlib.closing(bind(config.hostname, config.port)) as listener,
    ):
        source = find(config)
        logger.info("Model %s in %s", source.model_id, source.folder)
        config, source = with_speculation(config, source)
        _run(make(config, source, listener).run())


def run_until_signal(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what ``make`` makes, on the fastest event loop there is. To be called in the main thread."""
    with contextlib.suppress(Interrupted), stoppable():
        _run(make())


class Launcher:
    """One run of the server."""

    def __init__(self, config: ServeConfig, source: ModelSource, listener: socket.socket) -> None:
        self._config = config
        self._source = source
        self._listener = listener
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Until a signal to stop, and the end of what then runs."""
        self._listen_to_signals()
        with _engine_endpoint(self._config) as endpoint, LoadingBar(self._config) as bar:
            handle = RemoteEngine(endpoint, lane=new_lane())
            supervisor = EngineSupervisor(self._config, self._source.folder, handle, on_progress=bar.update)
            engine = asyncio.create_task(supervisor.run(), name="engine supervisor")
            await asyncio.sleep(0)  # the engine process starts here, and loads while this one does
            try:
                model = self._load_text()
                ready = await self._until(supervisor.ready.wait(), engine)
                bar.close()
                if ready:
                    await self._serve_all(handle, model, engine)
            finally:
                engine.cancel()
                with contextlib.suppress(asyncio.CancelledError, SegueError):
                    await engine
                await handle.close()

    def _load_text(self) -> "ServedModel":
        """Nothing is collected meanwhile: what imports and the tokenizer make lives for good."""
        gc.disable()
        try:
            import segue.launcher.http_server
            import segue.server.app  # noqa: F401

            return load_text(self._config, self._source)
        finally:
            gc.freeze()
            gc.enable()

    async def _serve_all(self, handle: RemoteEngine, model: "ServedModel", engine: "asyncio.Task[None]") -> None:
        """With as many processes as ``api_processes`` says, of which this is one."""
        num_processes = self._config.api_processes
        if num_processes == 1:
            await self._serve_http(handle, model, engine)
            return
        from segue.launcher.api_processes import APIProcesses
        from segue.server.siblings import Siblings

        with tempfile.TemporaryDirectory(prefix="segue-api-") as folder:
            others = APIProcesses(self._config, self._source, self._listener, handle.endpoint, folder)
            await self._serve_http(handle, model, engine, Siblings(Path(folder), 0, num_processes), others)

    async def _serve_http(
        self,
        handle: RemoteEngine,
        model: "ServedModel",
        engine: "asyncio.Task[None]",
        siblings: "Siblings | None" = None,
        others: "APIProcesses | None" = None,
    ) -> None:
        from segue.launcher.http_server import HTTPServer, metrics_only
        from segue.launcher.limited_protocol import ConnectionLimits, allow_open_files
        from segue.server.app import build_app

        if handle.endpoint.startswith("ipc:"):  # the engine is on this machine
            keep_off(handle.info.own_processor, self._config.api_processes)
        logger.info("Starting Webserver")
        app = build_app(self._config, handle, model, siblings)
        allow_open_files()
        limits = ConnectionLimits.of(self._config)
        servers: list[HTTPServer | APIProcesses] = [HTTPServer(app, self._listener, limits=limits)]
        if others is not None:
            servers.append(others)
        metrics_listener = self._metrics_listener()
        if metrics_listener is not None:
            servers.append(HTTPServer(metrics_only(app), metrics_listener, has_lifespan=False, limits=limits))
        http = asyncio.create_task(_all_of([each.run() for each in servers]), name="http")
        try:
            if await self._until(_all_of([each.started.wait() for each in servers]), engine, http):
                self._say_connected(handle)
                # What lives now lives on: full collections need not walk it while tokens wait to be sent.
                gc.collect()
                gc.freeze()
                gc.set_threshold(YOUNG_OBJECTS)
                await self._until(asyncio.Event().wait(), engine, http)
        finally:
            await self._drain(handle, servers, http)

    def _metrics_listener(self) -> socket.socket | None:
        return _bind_metrics(self._config)

    async def _drain(
        self, handle: RemoteEngine, servers: "list[HTTPServer | APIProcesses]", http: "asyncio.Task[None]"
    ) -> None:
        """Let nobody in, and running requests end. When their time is over, or a second signal comes, they fail."""
        logger.info("Shutting down: waiting for running requests")
        for server in servers:
            server.stop()
        hurry = asyncio.create_task(self._hurry.wait())
        timeout_s = self._config.graceful_termination_timeout
        await asyncio.wait((http, hurry), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not http.done():
            logger.warning("Requests that are still running are given up")
            for server in servers:
                server.stop()
            await handle.close()
            await asyncio.wait((http,), timeout=LAST_WORDS_S)
        for server in servers:
            server.force_stop()
        await asyncio.wait((http,))

    async def _until(self, event: Coroutine[Any, Any, Any], engine: "asyncio.Task[None]", *others: Any) -> bool:
        """Wait for ``event``: True. False when a signal to stop comes first.

        Raises what ended ``engine``, and WebserverError with what ended one of ``others``.
        """
        waiting = asyncio.ensure_future(event)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((waiting, stopping, engine, *others), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            stopping.cancel()
        if self._stop.is_set():
            return False
        if engine.done():
            error = engine.exception()
            assert error is not None
            raise EngineLostError(str(error)) if others else error
        for other in others:
            if other.done():
                raise WebserverError(str(other.exception() or "the HTTP server ended"))
        return True

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _stop_signals():
            loop.add_signal_handler(number, self._hear_signal)

    def _hear_signal(self) -> None:
        """The first signal drains, the next one ends at once."""
        (self._hurry if self._stop.is_set() else self._stop).set()

    def _say_connected(self, handle: RemoteEngine) -> None:
        info = handle.info
        logger.info("Setting max batch total tokens to %d", info.max_batch_total_tokens)
        logger.info("Using backend V3")
        logger.info("Using prefix caching = %s", self._config.prefix_caching)
        logger.info("Using Attention = %s", self._config.attention or "paged")
        address, port = self._listener.getsockname()[:2]
        logger.info("Serving %s at http://%s:%d", self._source.model_id, _reachable(address), port)
        logger.info("Connected")


@contextlib.contextmanager
def _engine_endpoint(config: ServeConfig) -> Iterator[str]:
    """Where TGI's engine would listen, so that its benchmark finds ours; a place of its own where that is taken."""
    shared = ShardSocket(f"{config.shard_uds_path}-0")
    if shared.claim():
        try:
            yield shared.endpoint
        finally:
            shared.release()
    else:
        with tempfile.TemporaryDirectory(prefix="segue-") as folder:
            logger.info("%s belongs to another server: the engine's socket is in %s", shared.path, folder)
            yield f"ipc://{folder}/engine"


def load_text(config: ServeConfig, source: ModelSource) -> "ServedModel":
    """Everything that turns text into ids and back. Raises ConfigError when the model's files do not allow it."""
    from segue.server.state import ServedModel
    from segue.text.tokenizer import Tokenizer

    folder = ensure_tokenizer(source.folder, trust_remote_code=config.trust_remote_code)
    tokenizer = Tokenizer.from_folder(folder, tokenizer_config_path=config.tokenizer_config_path)
    template = tool_template = None
    if not tokenizer.chat_templates:
        logger.info("The model brings no chat template: requests to chat are refused")
    else:
        template = _chat_template(tokenizer, "default", "requests to chat are refused")
        if "tool_use" in tokenizer.chat_templates:
            tool_template = _chat_template(tokenizer, "tool_use", "functions go into the default one")
    return ServedModel(
        model_id=source.model_id,
        tokenizer=tokenizer,
        chat_template=template,
        tool_template=tool_template,
        sha=source.sha,
        pipeline_tag=source.pipeline_tag,
        describe=_describer(config, source.folder),
    )


def _chat_template(tokenizer: "Tokenizer", name: str, otherwise: str) -> "ChatTemplate | None":
    from segue.text.chat_template import ChatTemplate

    try:
        return ChatTemplate.from_templates(
            tokenizer.chat_templates, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token, name=name
        )
    except TemplateError as error:
        logger.warning("The model's chat template %s cannot be used, %s: %s", name, otherwise, error)
        return None


def _describer(config: ServeConfig, folder: Path) -> "Callable[[str], ModelDescription]":
    """For the recommender's route, whose callers may name the served model and models of the Hub, but no folder."""

    def describe(model_id: str) -> "ModelDescription":
        from segue.containers.recommend import describe as describe_model

        if model_id == config.model_id:
            return describe_model(str(folder))
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model_id) or Path(model_id).exists():
            raise ConfigError(f"'{model_id}' is no name of a model on the Hub, such as google/gemma-7b-it")
        return describe_model(model_id, offline=config.hf_hub_offline)

    return describe


def bind(hostname: str, port: int) -> socket.socket:
    """A socket that has the port but does not listen, so that callers are refused until the server is ready.

    Raises PortError.
    """
    address = _address(hostname)
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise PortError(f"cannot listen on {address} port {port}: {os.strerror(error.errno or 0)}") from error
    return listener


def _address(hostname: str) -> str:
    if hostname == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(hostname))
    except ValueError:
        # Containers set HOSTNAME to their own name; TGI listens everywhere then.
        logger.warning("Invalid hostname %r, defaulting to 0.0.0.0", hostname)
        return "0.0.0.0"  # noqa: S104


def _bind_metrics(config: ServeConfig) -> socket.socket | None:
    if config.prometheus_port == config.port:
        return None
    try:
        listener = bind(config.hostname, config.prometheus_port)
        try:
            # Several may bind one port, only one may listen: heard here, that ends no server.
            listener.listen()
        except OSError as error:
            listener.close()
            raise PortError(f"port {config.prometheus_port}: {error.strerror}") from error
    except PortError as error:
        logger.warning("Metrics have no port of their own: %s. They are at /metrics.", error)
        return None
    return listener


def _reachable(address: str) -> str:
    """Where a user of this machine finds a server that listens on ``address``."""
    if ipaddress.ip_address(address).is_unspecified:
        return "127.0.0.1"
    return f"[{address}]" if ":" in address else address


async def _all_of(coroutines: list[Coroutine[Any, Any, Any]]) -> None:
    await asyncio.gather(*coroutines)


def _stop_signals() -> list[signal.Signals]:
    """``nohup`` has hang-ups ignored, and means it."""
    return [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]


class Interrupted(Exception):
    """A signal to stop came before there was an event loop to hear it."""


@contextlib.contextmanager
def stoppable() -> Iterator[list[signal.Signals]]:
    """Turn the signals to stop into ``Interrupted``, until the event loop takes them over."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    numbers = _stop_signals()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
