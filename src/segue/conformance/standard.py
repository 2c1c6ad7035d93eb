"""The checks of a live server, one after the other, each behind a proxy of its own."""

import asyncio
import time
from collections.abc import Callable, Iterable

from segue.client import TGIError
from segue.conformance.check import SUCCESS, Check, CheckFailed, CheckSkipped, Results, status_of
from segue.conformance.checks import STANDARD
from segue.conformance.fault_proxy import FaultProxy
from segue.conformance.lab import Lab, Target

__all__ = ["TIME_LIMIT_S", "run_standard"]

TIME_LIMIT_S = 180.0
"""For one check; a slow model on a slow machine needs seconds."""


async def run_standard(
    target: Target,
    checks: Iterable[Check[Lab]] = STANDARD,
    *,
    on_result: Callable[[str, object, float], None] = lambda name, result, seconds: None,
) -> Results:
    """``on_result`` gets each check's name, its result, and the seconds it took, as they come."""
    results: Results = {}
    for check in checks:
        began = time.monotonic()
        results[check.name] = result = await _run(check, target)
        on_result(check.name, result, time.monotonic() - began)
    return results


async def _run(check: Check[Lab], target: Target) -> object:
    proxy = FaultProxy(
        target.root,
        upstream_key=None if len(target.keys) >= 3 else target.api_key,
        passes_keys=len(target.keys) >= 3,
    )
    try:
        async with asyncio.timeout(TIME_LIMIT_S), proxy:
            return await check.run(Lab(target, proxy)) or SUCCESS
    except TimeoutError:
        return status_of(CheckFailed("what was waited for never came"))
    except (CheckSkipped, CheckFailed, TGIError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        return status_of(error)
