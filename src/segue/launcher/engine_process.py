"""The parent's side of the engine process: start it, hear from it, see it end, start it again."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from segue.core.config import ServeConfig, environment
from segue.core.errors import SegueError
from segue.core.output import EngineInfo
from segue.core.processors import allowed_processors
from segue.engine.remote import RemoteEngine
from segue.launcher.engine_child import EngineTask, LoadFailed, LoadProgress, Report

__all__ = ["EngineProcess", "EngineStartError", "EngineSupervisor", "engine_environment"]

MAX_FAILED_STARTS = 4
"""In a row, before the server gives up."""
LONGEST_BACKOFF_S = 10.0
STOP_TIMEOUT_S = 5.0
WAITING_NOTE_S = 10.0

logger = logging.getLogger(__name__)


class EngineStartError(SegueError):
    """The engine process did not come to serve; the text says why."""


class EngineProcess:
    """One life of the engine process. Made in the event loop's thread."""

    def __init__(self, task: EngineTask, report_fd: int, on_report: Callable[[Report], None]) -> None:
        """``report_fd`` is the reading end of the pipe whose writing end is ``task.report_fd``.

        Called in the main thread only: the kernel ends the child when the *thread* that started it ends.
        """
        assert threading.current_thread() is threading.main_thread()
        self._loop = asyncio.get_running_loop()
        self._on_report = on_report
        self.exited: asyncio.Future[int] = self._loop.create_future()
        """The exit code; negative: the signal that ended it. To be awaited by ``wait``, which does not cancel it."""
        # The child finds modules where this process does, and in the working directory only if this one does.
        safe_path = [] if "" in sys.path or os.getcwd() in sys.path else ["-P"]
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, *safe_path, "-m", "segue.launcher.engine_child"],
            stdin=subprocess.PIPE,
            env=engine_environment(environment()),
            pass_fds=(task.report_fd,),
            start_new_session=True,  # Ctrl-C is for the parent
        )
        assert self._process.stdin is not None
        with self._process.stdin as stdin, contextlib.suppress(BrokenPipeError):
            stdin.write(msgspec.json.encode(task))
        os.close(task.report_fd)
        threading.Thread(target=self._watch, args=(report_fd,), name="engine watch", daemon=True).start()

    @classmethod
    def start(
        cls,
        config: ServeConfig,
        model_folder: Path,
        endpoint: str,
        on_report: Callable[[Report], None],
        processors: Sequence[int] = (),
    ) -> "EngineProcess":
        """``processors``: that it may use; none: those of this process."""
        reading, writing = os.pipe()
        task = EngineTask(
            config=config,
            model_folder=str(model_folder),
            endpoint=endpoint,
            report_fd=writing,
            parent_pid=os.getpid(),
            processors=tuple(processors),
        )
        return cls(task, reading, on_report)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> int:
        return await asyncio.shield(self.exited)

    async def stop(self) -> None:
        """Wait a little for the process, which was told to end, then end it."""
        try:
            await asyncio.wait_for(self.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self.kill()
            await self.wait()

    def kill(self) -> None:
        self._process.kill()

    def _watch(self, report_fd: int) -> None:
        """In a thread of its own: works on every platform and loop, and sees the end at once."""
        with contextlib.suppress(RuntimeError), os.fdopen(report_fd, "rb") as reports:
            for line in reports:
                report = msgspec.json.decode(line, type=LoadProgress | LoadFailed)
                self._loop.call_soon_threadsafe(self._on_report, report)
        code = self._process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            self._loop.call_soon_threadsafe(self._set_exited, code)

    def _set_exited(self, code: int) -> None:
        if not self.exited.done():
            self.exited.set_result(code)


class EngineSupervisor:
    """Keeps an engine behind ``handle``: a new one takes the place of one that died."""

    def __init__(
        self,
        config: ServeConfig,
        model_folder: Path,
        handle: RemoteEngine,
        *,
        on_progress: Callable[[LoadProgress], None] | None = None,
        backoff_s: float = 0.25,
    ) -> None:
        self._config = config
        self._model_folder = model_folder
        self._handle = handle
        self._on_progress = on_progress
        self._backoff_s = backoff_s
        # This process leaves one of them alone when an engine serves; the next engine needs them all.
        self._processors = allowed_processors()
        self._failure: LoadFailed | None = None
        self.process: EngineProcess | None = None
        self.ready = asyncio.Event()
        """Set for good when the first engine serves."""

    async def run(self) -> None:
        """Until cancelled, which ends the engine.

        Raises EngineStartError when the first start fails, or later ones again and again.
        """
        num_failed = 0
        try:
            while True:
                if await self._live():
                    num_failed = 0
                else:
                    num_failed += 1
                if not self.ready.is_set() or num_failed >= MAX_FAILED_STARTS:
                    raise EngineStartError(self._reason())
                await asyncio.sleep(min(LONGEST_BACKOFF_S, self._backoff_s * 2**num_failed))
        finally:
            await self._end()

    async def _live(self) -> bool:
        """One life of an engine; whether it came to serve."""
        self._failure = None
        started = time.monotonic()
        logger.info("Starting shard rank=0")
        process = EngineProcess.start(
            self._config, self._model_folder, self._handle.endpoint, self._hear, self._processors
        )
        self.process = process
        connecting = asyncio.create_task(self._handle.connect())
        try:
            while not connecting.done() and not process.exited.done():
                done, _ = await asyncio.wait(
                    (connecting, process.exited), timeout=WAITING_NOTE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    logger.info("Waiting for shard to be ready... rank=0")
        finally:
            connecting.cancel()
        has_served = self._handle.is_healthy
        if has_served:
            logger.info("Shard ready in %.2fs rank=0", time.monotonic() - started)
            self._keep_limits(self._handle.info)
            self.ready.set()
        code = await (self._until_end(process) if has_served else process.wait())
        self._handle.mark_dead()
        logger.error("Shard 0 %s", _describe_exit(code))
        if self._failure is None and not has_served:
            self._failure = LoadFailed(reason=f"the engine process {_describe_exit(code)}")
        return has_served

    async def _until_end(self, process: EngineProcess) -> int:
        """The exit code of an engine that serves; one that lives but does not answer is ended."""
        limit_s = self._config.engine_timeout
        if limit_s > 0:
            silence = asyncio.create_task(self._handle.until_silent(limit_s))
            try:
                await asyncio.wait((process.exited, silence), return_when=asyncio.FIRST_COMPLETED)
            finally:
                silence.cancel()
            if not process.exited.done():
                logger.error("Shard 0 has not answered for %d s, it is ended", limit_s)
                process.kill()
        return await process.wait()

    def _hear(self, report: Report) -> None:
        if isinstance(report, LoadFailed):
            self._failure = report
        elif self._on_progress is not None:
            self._on_progress(report)

    def _keep_limits(self, info: EngineInfo) -> None:
        """An engine that takes over serves what was promised, however much memory is free by then."""
        self._config = dataclasses.replace(
            self._config,
            max_input_tokens=info.max_input_tokens,
            max_total_tokens=info.max_total_tokens,
            max_batch_prefill_tokens=info.max_batch_prefill_tokens,
            max_batch_total_tokens=info.max_batch_total_tokens,
        )

    def _reason(self) -> str:
        return self._failure.reason if self._failure is not None else "the engine process ended"

    async def _end(self) -> None:
        if self.process is None:
            return
        if self._handle.is_healthy:
            self._handle.stop_engine()
        else:
            self.process.kill()
        await self.process.stop()


def engine_environment(variables: dict[str, str]) -> dict[str, str]:
    """``variables``, with OpenMP's waiting made short unless they say how it should wait.

    libgomp's threads spin for milliseconds between two operators. Where this process or any other wants the core, the
    next operator waits for a thread that has none: 16 requests of 256 + 64 tokens to an opt-125m took 85 s on two cores
    with a load of 4, and 19 s with a short spin. It still spans the gap between operators, so that on free cores
    nothing is lost (12 layers of matrix products: 19.6 ms and 19.2 ms).
    """
    if "OMP_WAIT_POLICY" in variables or "GOMP_SPINCOUNT" in variables:
        return variables
    return variables | {"GOMP_SPINCOUNT": "1000"}


def _describe_exit(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
