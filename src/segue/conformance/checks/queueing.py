"""Slots, lines and limits of an endpoint, as the server sees them."""

import asyncio

from segue.client import BreakerPolicy, CircuitOpenError, QueueFullError, QueueTimeoutError, ServerError
from segue.conformance.check import collect, expect
from segue.conformance.faults import Answer
from segue.conformance.lab import NO_RETRIES, Lab, errors_in, fails_with

__all__ = ["CHECKS"]

PATIENCE_S = 5.0
"""For what should fail at once."""


async def queue_enabled(lab: Lab) -> None:
    """Without a line a second call is refused at once; with one it waits and is served."""
    await _two_calls_on_one_slot(lab, has_line=False, refused=1)
    await _two_calls_on_one_slot(lab, has_line=True, refused=0)


async def _two_calls_on_one_slot(lab: Lab, *, has_line: bool, refused: int) -> None:
    begin = len(lab.proxy.generations)
    async with lab.client(lab.pool(lab.endpoint(max_concurrent=1, queue_enabled=has_line))) as client:
        with lab.proxy.held() as release:
            calls = asyncio.create_task(lab.generate_many(client, 2))
            await lab.proxy.until(lambda: len(lab.proxy.generations) > begin)
            release()
        errors = errors_in(await calls)
    served = len(lab.proxy.generations) - begin
    expect(all(isinstance(error, QueueFullError) for error in errors), f"{errors}")
    expect(
        (len(errors), served) == (refused, 2 - refused),
        f"queue_enabled={has_line}: {len(errors)} of 2 refused, {served} served",
    )


async def request_queue(lab: Lab) -> None:
    """A line of three takes three; the next is refused at once, and the server never sees it."""
    pool = lab.pool(lab.endpoint(max_concurrent=1, queue_size=3))
    async with lab.client(pool) as client:
        with lab.proxy.held() as release:
            calls = asyncio.gather(*(client.generate(lab.prompt, max_new_tokens=1) for _ in range(4)))
            await lab.proxy.until(lambda: len(lab.proxy.generations) == 1)
            expect(pool.stats().global_queue_size == 3, f"{pool.stats().global_queue_size} wait, not 3")
            with fails_with(QueueFullError):
                await client.generate(lab.prompt, max_new_tokens=1, request_id="one-too-many", deadline=PATIENCE_S)
            release()
        await calls
    expect(len(lab.proxy.generations) == 4, f"{len(lab.proxy.generations)} requests arrived, not 4")
    ids = [request.request_id for request in lab.proxy.generations]
    expect("one-too-many" not in ids, "the request that was refused reached the server")


async def queue_timeout(lab: Lab) -> None:
    """A call that has waited long enough leaves the line, and the server never sees it."""
    pool = lab.pool(lab.endpoint(max_concurrent=1))
    async with lab.client(pool) as client:
        with lab.proxy.held() as release:
            first = asyncio.create_task(client.generate(lab.prompt, max_new_tokens=1))
            await lab.proxy.until(lambda: len(lab.proxy.generations) == 1)
            with fails_with(QueueTimeoutError):
                await client.generate(lab.prompt, max_new_tokens=1, queue_timeout=0.05, deadline=PATIENCE_S)
            release()
        await first
    expect(len(lab.proxy.generations) == 1, "the request that gave up reached the server")
    expect(pool.stats().global_queue_size == 0, "it still counts as waiting")


async def max_concurrent_requests(lab: Lab) -> None:
    """Two slots: two at a time, never more."""
    async with lab.client(lab.pool(lab.endpoint(max_concurrent=2))) as client:
        with lab.proxy.held() as release:
            calls = asyncio.create_task(lab.generate_many(client, 7))
            await lab.proxy.until(lambda: lab.proxy.num_at_once >= 2)
            release()
        outcomes = await calls
    expect(not errors_in(outcomes), f"{errors_in(outcomes)[:1]}")
    expect(lab.proxy.max_at_once == 2, f"{lab.proxy.max_at_once} at a time, not 2")


async def current_requests(lab: Lab) -> None:
    """The statistics say who runs and who waits while they do, and nobody afterwards."""
    pool = lab.pool(lab.endpoint(max_concurrent=2))
    async with lab.client(pool) as client:
        with lab.proxy.held() as release:
            calls = asyncio.create_task(lab.generate_many(client, 6))
            await lab.proxy.until(lambda: lab.proxy.num_at_once >= 2)
            stats = pool.stats()
            during = (stats.global_current_requests, stats.global_queue_size)
            release()
        await calls
    after = pool.stats()
    expect(during == (2, 4), f"2 run and 4 wait; the statistics say {during}")
    expect((after.global_current_requests, after.global_queue_size) == (0, 0), "the statistics say somebody is left")


async def queue_processing(lab: Lab) -> None:
    """What waits is served in the order in which it came."""
    ids = [f"number-{number:02}" for number in range(16)]
    async with lab.client(lab.pool(lab.endpoint(max_concurrent=1))) as client:
        with lab.proxy.held() as release:
            calls = []
            for id in ids:
                calls.append(asyncio.create_task(client.generate(lab.prompt, max_new_tokens=1, request_id=id)))
                await asyncio.sleep(0)
            await lab.proxy.until(lambda: len(lab.proxy.generations) == 1)
            release()
        await asyncio.gather(*calls)
    arrived = [request.request_id for request in lab.proxy.generations]
    expect(arrived == ids, f"the order of arrival was {arrived}")


async def circuit_breaker(lab: Lab) -> None:
    """Faults of the server open the circuit, mistakes of the caller do not; one probe closes it again."""
    policy = BreakerPolicy(failure_threshold=3, cooldown_s=0.2)
    pool = lab.pool(lab.endpoint(breaker=policy))
    [id] = pool.ids
    async with lab.client(pool, NO_RETRIES) as client:
        lab.proxy.inject(*[Answer(422, "validation")] * 4, *[Answer(500)] * 3)
        await lab.generate_many(client, 4)
        expect(pool.endpoint_stats(id).breaker_state == "closed", "answers with 422 have opened it")
        for _ in range(3):
            with fails_with(ServerError):
                await client.generate(lab.prompt, max_new_tokens=1)
        num_seen = len(lab.proxy.generations)
        with fails_with(CircuitOpenError):
            await client.generate(lab.prompt, max_new_tokens=1)
        expect(len(lab.proxy.generations) == num_seen, "a request was sent although the circuit was open")
        await asyncio.sleep(policy.cooldown_s)
        with lab.proxy.held() as release:
            probes = asyncio.create_task(lab.generate_many(client, 3))
            await lab.proxy.until(lambda: len(lab.proxy.generations) > num_seen)
            expect(lab.proxy.num_at_once == 1, f"{lab.proxy.num_at_once} probes at a time, not 1")
            release()
        await probes
        await client.generate(lab.prompt, max_new_tokens=1)
    expect(pool.endpoint_stats(id).breaker_state == "closed", "a probe that went well has not closed it")


CHECKS = collect(
    queue_enabled,
    request_queue,
    queue_timeout,
    max_concurrent_requests,
    current_requests,
    queue_processing,
    circuit_breaker,
)
