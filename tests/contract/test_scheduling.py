"""How requests share the engine, seen from outside and in the batches that the runner was given."""

import asyncio
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
from contract.live import GatedRunner, LiveServer, fake_server
from serving import echo, ids_of, is_boom

from segue.core.batch import ScheduledBatch, ScheduledSequence
from segue.engine.config import EngineConfig

BLOCK_SIZE = 16
PREFILL_TOKENS = 32
MAX_BATCH_SIZE = 3


@pytest.fixture
def runner() -> GatedRunner:
    return GatedRunner(next_token=echo, fails=is_boom)


@pytest.fixture
def server(runner: GatedRunner, tmp_path: Path) -> Iterator[LiveServer]:
    engine = EngineConfig(
        num_blocks=64,
        block_size=BLOCK_SIZE,
        max_batch_size=MAX_BATCH_SIZE,
        max_batch_prefill_tokens=PREFILL_TOKENS,
    )
    with fake_server(tmp_path, runner=runner, engine=engine) as running:
        yield running


async def together(server: LiveServer, runner: GatedRunner, prompts: list[str]) -> list[Any]:
    """All at once: the engine stands still until it has them, in this order."""
    async with server.client() as client:
        with runner.held():
            tasks = []
            for prompt in prompts:
                arrived = server.engine.num_submitted + 1
                tasks.append(asyncio.ensure_future(client.post("/generate", json={"inputs": prompt})))
                await server.until_submitted(arrived)
        return [(await task).json() for task in tasks]


def texts(prompts: list[str]) -> list[dict[str, str]]:
    return [{"generated_text": prompt} for prompt in prompts]


def first_letter(sequence: ScheduledSequence) -> int:
    return sequence.history[1]


def order_of_arrival(batches: list[ScheduledBatch]) -> list[int]:
    """The first letter of each prompt, in the order in which they came to run."""
    return list(dict.fromkeys(first_letter(sequence) for batch in batches for sequence in batch.sequences))


async def test_Q2_batches_in_the_order_of_arrival_within_the_budgets(server: LiveServer, runner: GatedRunner) -> None:
    prompts = [letter * 20 for letter in "abcdefg"]
    assert await together(server, runner, prompts) == texts(prompts)
    assert order_of_arrival(server.batches) == sorted(order_of_arrival(server.batches))
    assert len(order_of_arrival(server.batches)) == len(prompts)
    for batch in server.batches:
        assert len(batch.sequences) <= MAX_BATCH_SIZE
        assert sum(len(sequence.token_ids) for sequence in batch.sequences) <= PREFILL_TOKENS
    sizes = [len(batch.sequences) for batch in server.batches]
    assert max(sizes) == MAX_BATCH_SIZE
    # Continuous: a place that comes free is taken while the others go on.
    members = [{first_letter(sequence) for sequence in batch.sequences} for batch in server.batches]
    assert any(before & after and after - before for before, after in pairwise(members))


async def test_Q2_no_more_memory_is_used_than_there_is(tmp_path: Path) -> None:
    """Sequences that grow beyond the blocks there are take turns; ``FakeRunner`` sees that nobody's are overwritten."""
    runner = GatedRunner(next_token=echo)
    engine = EngineConfig(num_blocks=12, block_size=BLOCK_SIZE)
    with fake_server(tmp_path, runner=runner, engine=engine) as server:
        prompts = [letter * 60 for letter in "abcdef"]
        assert await together(server, runner, prompts) == texts(prompts)
        tables = [{block for each in batch.sequences for block in each.block_table} for batch in server.batches]
        assert max(len(blocks) for blocks in tables) <= 12
        await server.until_idle()


async def test_Q3_a_long_prompt_comes_in_chunks_beside_running_requests(
    server: LiveServer, runner: GatedRunner
) -> None:
    short, long = "s" * 40, "l" * 150
    assert await together(server, runner, [short, long]) == texts([short, long])
    chunks = [
        (len(sequence.token_ids), batch.num_decode_sequences)
        for batch in server.batches
        for sequence in batch.sequences
        if first_letter(sequence) == ids_of(long)[0] and sequence.num_computed_tokens < 151
    ]
    sizes = [size for size, _ in chunks]
    assert sum(sizes) == 151
    assert max(sizes) <= PREFILL_TOKENS
    assert list(accumulate(sizes)) == sorted(set(accumulate(sizes)))
    beside = [size for size, num_decodes in chunks if num_decodes]
    # The running one keeps its token a step; what is left of the budget is the chunk's.
    assert beside
    assert max(beside) == PREFILL_TOKENS - 1


async def test_Q5_the_second_identical_prompt_is_not_computed_again(server: LiveServer, runner: GatedRunner) -> None:
    prompt = "p" * 100
    for _ in range(2):
        assert await together(server, runner, [prompt]) == texts([prompt])
    starts: dict[int, int] = {}
    for sequence in (each for batch in server.batches for each in batch.sequences):
        starts.setdefault(sequence.seq_id, sequence.num_computed_tokens)
    assert list(starts.values()) == [0, 100], "all but the last token, whose logits are needed"
    assert server.metric("segue_prefix_cache_hit_tokens_total") == 100
    await server.until_idle()
    assert server.metric("segue_kv_blocks_used") == 0


async def test_Q5_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """Memory for two prompts: the third takes the place of that one which was used longest ago."""
    runner = GatedRunner(next_token=echo)
    engine = EngineConfig(num_blocks=8, block_size=BLOCK_SIZE)
    with fake_server(tmp_path, runner=runner, engine=engine) as server:

        async def hits(letter: str) -> float:
            before = server.metric("segue_prefix_cache_hit_tokens_total")
            body = {"inputs": letter * 63, "parameters": {"max_new_tokens": 1}}
            assert server.post("/generate", body).json() == {"generated_text": letter}
            await server.until_idle()
            return server.metric("segue_prefix_cache_hit_tokens_total") - before

        assert [await hits(letter) for letter in "ab"] == [0, 0]
        assert await hits("a") == 63
        assert await hits("c") == 0
        assert await hits("a") == 63
        assert await hits("b") == 0


async def test_Q6_the_next_turn_finds_the_answer_too(server: LiveServer, runner: GatedRunner) -> None:
    question = "q" * 40
    await together(server, runner, [question])
    await together(server, runner, [question * 2 + " and then?"])
    # Of question and answer all but the last token, which was never fed back.
    assert server.metric("segue_prefix_cache_hit_tokens_total") == 80 // BLOCK_SIZE * BLOCK_SIZE


async def test_Q7_a_request_that_fails_hurts_nobody_else(server: LiveServer, runner: GatedRunner) -> None:
    prompts = ["first one", "boom goes this", "third one", "fourth one"]
    replies = await together(server, runner, prompts)
    failed = replies.pop(1)
    error = "Request failed during generation: the fake device failed"
    assert failed == {"error": error, "error_type": "generation"}
    assert replies == texts(["first one", "third one", "fourth one"])
    assert server.http.get("/health").status_code == 200
    assert await together(server, runner, ["afterwards"]) == texts(["afterwards"])
    await server.until_idle()


async def test_Q7_streams_go_on_beside_one_that_fails(server: LiveServer, runner: GatedRunner) -> None:
    async with server.client() as client:
        body = {"inputs": "a stream that goes on"}
        async with client.stream("POST", "/generate_stream", json=body) as stream:
            events = stream.aiter_lines()
            await anext(events)
            assert (await client.post("/generate", json={"inputs": "boom"})).status_code == 424
            rest = [line async for line in events if line]
    assert '"generated_text":"a stream that goes on"' in rest[-1]
