"""Several keys and endpoints behind one client: who is asked, with which key, and what is counted."""

import time
from collections import Counter
from typing import Any

from segue.client import EndpointPool
from segue.conformance.check import SUCCESS, CheckFailed, collect, expect
from segue.conformance.lab import NUM_TOKENS, Lab, errors_in

__all__ = ["CHECKS"]


async def multiplexing_endpoint_creation(lab: Lab) -> None:
    """Two endpoints with settings of their own; each answers."""
    pool = EndpointPool()
    ids = [pool.add(lab.endpoint(0, max_concurrent=1)), pool.add(lab.endpoint(1, max_concurrent=3))]
    expect(all(ids) and len(set(ids)) == 2, f"the ids are {ids}")
    limits = [pool.get(id).max_concurrent for id in ids]
    expect(limits == [1, 3], f"limits of 1 and 3 became {limits}")
    async with lab.client(pool) as client:
        for id in ids:
            result = await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS, endpoint=id)
            expect(result.response.endpoint == id, f"{id} was asked, {result.response.endpoint} answered")


async def usage_statistics(lab: Lab) -> None:
    """What the client counts is what arrived, and the tokens are the server's own count."""
    pool = lab.pool(lab.endpoint(0), lab.endpoint(1))
    before = pool.stats()
    async with lab.client(pool) as client:
        outcomes = await lab.generate_many(client, 5)
    expect(not errors_in(outcomes), f"{errors_in(outcomes)[:1]}")
    stats, seen = pool.stats(), lab.proxy.generations
    expect(before.total_requests == 0 and stats.total_requests == len(seen), _told(stats.total_requests, len(seen)))
    expect(
        stats.successful_requests == 5 and stats.failed_requests == 0, f"successes: {stats.successful_requests} of 5"
    )
    for number, (id, endpoint) in enumerate(stats.endpoints.items()):
        arrived = sum(request.key == lab.keys[number] for request in seen)
        expect(endpoint.total_requests == arrived, f"{id}: {_told(endpoint.total_requests, arrived)}")
    counted = sum(outcome.details.generated_tokens for outcome in outcomes)
    expect(stats.output_tokens == counted, f"tokens: {_told(stats.output_tokens, counted)}")
    on_wire = [request.num_generated for request in seen if request.num_generated is not None]
    if len(on_wire) == len(seen):
        expect(stats.output_tokens == sum(on_wire), f"tokens: {_told(stats.output_tokens, sum(on_wire))}")
    pool.reset_stats()
    expect(pool.stats().total_requests == 0, "reset_stats leaves counts behind")


async def endpoint_routing(lab: Lab) -> None:
    """A call that names its endpoint goes there."""
    pool = lab.pool(lab.endpoint(0, id="a"), lab.endpoint(1, id="b"))
    order = ["b", "a", "b", "b", "a"]
    async with lab.client(pool) as client:
        for id in order:
            await client.generate(lab.prompt, max_new_tokens=1, endpoint=id)
    arrived = ["ab"[lab.keys.index(request.key or "")] for request in lab.proxy.generations]
    expect(arrived == order, f"asked {order}, arrived {arrived}")


async def different_keys_used(lab: Lab) -> None:
    """The server sees the key of each endpoint, and no other."""
    async with lab.client(lab.pool(*(lab.endpoint(number) for number in range(3)))) as client:
        await lab.generate_many(client, 6)
    counted = Counter(request.key for request in lab.proxy.generations)
    missing = [f"key {number}" for number, key in enumerate(lab.keys[:3], 1) if counted[key] != 2]
    expect(len(counted) == 3 and not missing, f"6 requests over 3 keys: {missing or 'unknown keys'} not seen twice")


async def failover(lab: Lab) -> None:
    """An endpoint that is down is left out, and taken in again once it is well."""
    pool = lab.pool(lab.endpoint(0, id="down", url="http://127.0.0.1:9"), lab.endpoint(1, id="up"), strategy="first")
    async with lab.client(pool) as client:
        result = await client.generate(lab.prompt, max_new_tokens=1)
        expect(result.response.endpoint == "up", f"{result.response.endpoint} answered")
        expect(await client.check_endpoints() == {"down": False, "up": True}, "check_endpoints sees it otherwise")
        pool.update("down", url=lab.proxy.url)
        expect((await client.check_endpoints())["down"], "the endpoint came back, check_endpoints does not see it")
        result = await client.generate(lab.prompt, max_new_tokens=1)
        expect(result.response.endpoint == "down", "the endpoint came back and is not asked")
    stats = pool.stats()
    expect(
        (stats.total_requests, stats.failovers) == (2, 1),
        f"requests, failovers: {stats.total_requests}, {stats.failovers}",
    )


async def hftgi_multiplexer(lab: Lab) -> dict[str, Any]:
    """Named keys in turn, with what each was used for; the entry that the seed system writes."""
    names = [f"key_{number}" for number in range(1, len(lab.keys) + 1)]
    pool = lab.pool(*(lab.endpoint(number, id=name) for number, name in enumerate(names)))
    async with lab.client(pool) as client:
        used = [
            (await client.generate(lab.prompt, max_new_tokens=NUM_TOKENS)).response.endpoint
            for _ in range(2 * len(names))
        ]
    arrived = [names[lab.keys.index(request.key or "")] for request in lab.proxy.generations]
    if used != arrived or used != names * 2:
        raise CheckFailed(f"the turns were {used}, at the server {arrived}")
    return {
        "status": SUCCESS,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "results": dict.fromkeys(names, SUCCESS),
        "key_count": len(names),
        "keys": names,
        "round_robin": {"clients_used": used, "success": True},
        "usage_stats": {"hf_tgi": {name: _usage(pool, name) for name in names}},
    }


def _usage(pool: EndpointPool, name: str) -> dict[str, Any]:
    stats = pool.endpoint_stats(name)
    counts = (
        "total_requests",
        "successful_requests",
        "failed_requests",
        "total_tokens",
        "input_tokens",
        "output_tokens",
    )
    return {
        "usage": {count: getattr(stats, count) for count in counts},
        "queue_size": stats.current_queue_size,
        "current_requests": stats.current_requests,
        "model_id": stats.model,
    }


def _told(counted: int, true: int) -> str:
    return f"the client counts {counted}, there were {true}"


CHECKS = collect(
    multiplexing_endpoint_creation,
    usage_statistics,
    endpoint_routing,
    different_keys_used,
    failover,
    hftgi_multiplexer,
)
