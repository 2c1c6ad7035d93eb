"""Coroutines run to their end from code that is not async, be there a running event loop or not."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["run_to_end"]

T = TypeVar("T")


def run_to_end(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """``asyncio.run(main())``, in a thread of its own where a loop runs already: that is how notebooks call.

    An interrupt of the caller cancels ``main``, and is raised once that has cleaned up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def announced() -> T:
        task = asyncio.current_task()
        assert task is not None
        started.set_result((asyncio.get_running_loop(), task))
        return await main()

    with ThreadPoolExecutor(1, thread_name_prefix="segue-classify") as executor:
        done = executor.submit(lambda: asyncio.run(announced()))
        try:
            return done.result()
        except BaseException:
            if not done.done():
                loop, task = started.result()
                with contextlib.suppress(RuntimeError):  # it ended meanwhile
                    loop.call_soon_threadsafe(task.cancel)
            raise
