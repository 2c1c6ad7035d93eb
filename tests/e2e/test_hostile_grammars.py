"""Grammars made to be slow or large: each is answered, refused or fails alone, while others are served."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from e2e.server_process import TIMEOUT_S, ServerProcess


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


REGEXES = {
    "nested repetition": "(a+)+$",
    "alternatives that overlap": "(a|aa)+$",
    "alternatives that are all the same": "(.*)*(.*)*(.*)*(.*)*x",
    "counted three deep": "((a{1000}){1000}){1000}",
    "a chain of options": "a?" * 8000 + "a" * 300,
    "a large alphabet, counted": "[\\w\\W]{5000}x",
    "look-ahead": "(?=a)b",
    "a back reference": "(a)\\1",
    "brackets without an end": "(" * 8000,
    "a range the wrong way": "[z-a]",
    "nothing that fits": "[^\\x00-\\U0010ffff]",
}
SCHEMAS: dict[str, Any] = {
    "180 objects deep": nested(60),
    "refers to itself": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "refers in a circle": {
        "properties": {"a": {"$ref": "#/$defs/x"}},
        "$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}},
    },
    "refers to a server": {"properties": {"a": {"$ref": "http://127.0.0.1:1/schema.json"}}},
    "refers to a file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "3000 optional properties": {"properties": {f"property{number}": {"type": "string"} for number in range(3000)}},
    "a text of a million characters": {"properties": {"a": {"type": "string", "minLength": 10**6}}},
    "a list of a million": {"properties": {"a": {"type": "array", "minItems": 10**6}}},
    "a number of 400 digits": {"properties": {"a": {"type": "integer", "minimum": 10**400}}},
    "nothing fits": {"properties": {"a": False}, "required": ["a"]},
    "a pattern that repeats itself": {"properties": {"a": {"type": "string", "pattern": "(a+)+$"}}},
}
GRAMMARS = {
    **{f"regex: {name}": {"type": "regex", "value": value} for name, value in REGEXES.items()},
    **{f"schema: {name}": {"type": "json", "value": value} for name, value in SCHEMAS.items()},
}


@pytest.mark.parametrize("name", GRAMMARS)
async def test_S9_a_hostile_grammar(server: ServerProcess, name: str) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
        body = {"inputs": "a", "parameters": {"max_new_tokens": 20, "grammar": GRAMMARS[name]}}
        hostile = asyncio.create_task(client.post("/generate", json=body))
        while True:
            other = await client.post("/generate", json={"inputs": "a", "parameters": {"max_new_tokens": 2}})
            assert other.status_code == 200
            if hostile.done():
                break
        reply = hostile.result()
        assert reply.status_code in (200, 422, 424), reply.text
        if reply.status_code != 200:
            assert reply.json()["error_type"] in ("validation", "generation")
            assert len(reply.text) < 2000
        assert (await client.get("/health")).status_code == 200
        metrics = (await client.get("/metrics")).text.splitlines()
    assert "segue_kv_blocks_used 0" in metrics
    assert "Traceback" not in server.log


async def test_S9_many_hostile_grammars_at_once(server: ServerProcess) -> None:
    """Those that wait for their grammars hold no batch; all come to an end."""
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
        hostile = [
            client.post(
                "/generate",
                content=json.dumps({"inputs": "a", "parameters": {"max_new_tokens": 5, "grammar": grammar}}),
                headers={"content-type": "application/json"},
            )
            for grammar in GRAMMARS.values()
        ]
        others = [
            client.post("/generate", json={"inputs": f"b {n}", "parameters": {"max_new_tokens": 5}}) for n in range(10)
        ]
        replies = await asyncio.gather(*hostile, *others)
    assert {reply.status_code for reply in replies[: len(hostile)]} <= {200, 422, 424}
    assert {reply.status_code for reply in replies[len(hostile) :]} == {200}
