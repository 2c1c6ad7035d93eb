"""Several coroutines as one."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["all_or_none"]

T = TypeVar("T")


async def all_or_none(runs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results. When one fails, or this is cancelled, the others are cancelled."""
    tasks = [asyncio.ensure_future(run) for run in runs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
