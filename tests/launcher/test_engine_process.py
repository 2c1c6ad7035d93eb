"""A real engine process under its supervisor: it serves, dies, is replaced, and never outlives its parent."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from segue.core.config import ServeConfig
from segue.core.errors import GenerationError
from segue.core.processors import allowed_processors
from segue.core.request import Request, StopCriteria
from segue.engine.remote import RemoteEngine
from segue.kernels import cpu
from segue.launcher import engine_process
from segue.launcher.engine_child import LoadProgress
from segue.launcher.engine_process import EngineStartError, EngineSupervisor
from segue.launcher.processors import keep_off

CONFIG = ServeConfig(device="cpu", num_threads=1, kv_cache_memory=1_000_000, log_level="warn")
TIMEOUT_S = 60.0


@asynccontextmanager
async def running(
    folder: Path, tmp_path: Path, config: ServeConfig = CONFIG
) -> AsyncIterator[tuple[RemoteEngine, EngineSupervisor, list[LoadProgress]]]:
    handle = RemoteEngine(f"ipc://{tmp_path}/engine")
    progress: list[LoadProgress] = []
    supervisor = EngineSupervisor(config, folder, handle, on_progress=progress.append, backoff_s=0.0)
    task = asyncio.create_task(supervisor.run())
    try:
        waiting = asyncio.create_task(supervisor.ready.wait())
        await asyncio.wait((task, waiting), timeout=TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield handle, supervisor, progress
    finally:
        waiting.cancel()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineStartError):
            await task
        await handle.close()


async def generate(handle: RemoteEngine, num_tokens: int, prompt: tuple[int, ...] = (1, 2, 3)) -> list[int]:
    stream = handle.submit(
        Request(
            request_id=handle.next_request_id(),
            prompt_token_ids=prompt,
            stop=StopCriteria(max_new_tokens=num_tokens),
        )
    )
    return [token.token_id async for output in stream for token in output.tokens]


async def test_serves_dies_and_serves_again(tiny_llama: Path, tmp_path: Path) -> None:
    async with running(tiny_llama, tmp_path) as (handle, supervisor, progress):
        assert 0 < progress[-1].done_bytes <= progress[-1].total_bytes
        first = await generate(handle, 8)
        assert len(first) == 8

        assert supervisor.process is not None
        old = psutil.Process(supervisor.process.pid)
        stream = handle.submit(
            Request(
                request_id=handle.next_request_id(),
                prompt_token_ids=(1, 2, 3),
                stop=StopCriteria(max_new_tokens=2000),
            )
        )
        await anext(stream)
        old.kill()
        with pytest.raises(GenerationError, match="engine process ended unexpectedly"):
            async for _ in stream:
                pass
        assert not handle.is_healthy

        info = handle.info
        await handle.connect(TIMEOUT_S)
        assert supervisor.process.pid != old.pid
        assert handle.info == info
        assert await generate(handle, 8) == first
        new = psutil.Process(supervisor.process.pid)
    assert not new.is_running()


async def test_the_next_engine_may_use_what_the_server_keeps_off(tiny_llama: Path, tmp_path: Path) -> None:
    processors = allowed_processors()
    if len(processors) < 2 or not cpu.is_available():
        pytest.skip("needs two processors and native kernels")
    config = dataclasses.replace(CONFIG, num_threads=len(processors))
    try:
        async with running(tiny_llama, tmp_path, config) as (handle, supervisor, _):
            own = handle.info.own_processor
            assert own == processors[0]
            keep_off(own, 1)
            assert allowed_processors() == processors[1:]
            assert supervisor.process is not None
            psutil.Process(supervisor.process.pid).kill()
            while handle.is_healthy:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await handle.connect(TIMEOUT_S)
            assert handle.info.own_processor == own
            assert psutil.Process(supervisor.process.pid).cpu_affinity() == processors
    finally:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), processors)


async def test_F8_a_start_that_cannot_work_says_why(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    with pytest.raises(EngineStartError, match="holds no weights"):
        async with running(tmp_path, tmp_path):
            pass


async def test_limits_that_do_not_fit(tiny_llama: Path, tmp_path: Path) -> None:
    config = ServeConfig(device="cpu", num_threads=1, max_total_tokens=4000, log_level="warn")
    with pytest.raises(EngineStartError, match="must be <= the model's 2048 positions"):
        async with running(tiny_llama, tmp_path, config):
            pass


async def test_F8_gives_up_after_repeated_failed_starts(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "MAX_FAILED_STARTS", 1)
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "model"))
    handle = RemoteEngine(f"ipc://{tmp_path}/engine")
    supervisor = EngineSupervisor(CONFIG, folder, handle, backoff_s=0.0)
    task = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(supervisor.ready.wait(), TIMEOUT_S)
    (folder / "model.safetensors").unlink()
    assert supervisor.process is not None
    os.kill(supervisor.process.pid, signal.SIGKILL)
    with pytest.raises(EngineStartError, match="holds no weights"):
        await asyncio.wait_for(task, TIMEOUT_S)
    assert not handle.is_healthy
    await handle.close()


def test_the_engine_does_not_outlive_its_parent(tiny_llama: Path, tmp_path: Path) -> None:
    """Killed while the engine still loads, when no socket tells it that the parent is gone."""
    script = textwrap.dedent(f"""
        import asyncio, os, pathlib
        from segue.core.config import ServeConfig
        from segue.launcher.engine_process import EngineProcess
        async def main():
            folder = pathlib.Path({str(tiny_llama)!r})
            process = EngineProcess.start(ServeConfig(), folder, "ipc://{tmp_path}/engine", print)
            print(process.pid, flush=True)
            await process.exited
        asyncio.run(main())
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(timeout=TIMEOUT_S)


@pytest.mark.parametrize(
    ("variables", "spin"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_openmp_waits_shortly_unless_told_otherwise(variables: dict[str, str], spin: str | None) -> None:
    made = engine_process.engine_environment({"PATH": "/bin"} | variables)
    assert made.get("GOMP_SPINCOUNT") == spin
    assert made["PATH"] == "/bin"
