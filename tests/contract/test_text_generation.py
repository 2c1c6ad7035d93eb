"""``text_generation``, TGI's own old client as it is on PyPI, against a running server.

What its own tests do against Hugging Face's hosted models is done here; their "not found" is the hosting's, not TGI's.
"""

import asyncio
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.live import GatedRunner, LiveServer, fake_server
from serving import INFO, echo

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from text_generation import AsyncClient, Client
    from text_generation.errors import GenerationError, OverloadedError, ValidationError
    from text_generation.types import FinishReason, Grammar, GrammarType

# It says of itself that it is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Call = Callable[..., Any]
MESSAGES = [{"role": "user", "content": "Good day"}]
PROMPT = "<user>Good day<assistant>"


@pytest.fixture(params=[Client, AsyncClient])
def call(request: pytest.FixtureRequest, server: LiveServer) -> Call:
    """Calls a method of either client; streams come as lists."""

    async def run(method: str, *args: Any, url: str = server.url, **kwargs: Any) -> Any:
        client = request.param(url, headers=server.headers, timeout=60)
        answer = getattr(client, method)(*args, **kwargs)
        if inspect.isawaitable(answer):
            answer = await answer
        if inspect.isasyncgen(answer):
            return [event async for event in answer]
        return list(answer) if inspect.isgenerator(answer) else answer

    return run


@pytest.fixture(scope="module")
def short_server(tmp_path_factory: pytest.TempPathFactory, server: LiveServer) -> Iterator[LiveServer]:
    """Whose model takes 1,000 tokens in all."""
    info = replace(INFO, max_total_tokens=1000)
    with fake_server(tmp_path_factory.mktemp("tokenizer"), info=info, api_key=(server.api_key,)) as running:
        yield running


async def test_Y1_generate(call: Call) -> None:
    reply = await call("generate", "test", max_new_tokens=1, decoder_input_details=True)
    assert reply.generated_text == "t"
    assert reply.details.finish_reason == FinishReason.Length
    assert reply.details.generated_tokens == 1
    assert reply.details.seed is None
    assert reply.details.prefill == []
    [token] = reply.details.tokens
    assert (token.text, token.special, token.logprob) == ("t", False, -0.5)


async def test_Y1_generate_until_the_end(call: Call) -> None:
    reply = await call("generate", "héllo 😀", max_new_tokens=100)
    assert reply.generated_text == "héllo 😀"
    assert reply.details.finish_reason == FinishReason.EndOfSequenceToken
    assert reply.details.tokens[-1].special


async def test_Y1_best_of(call: Call) -> None:
    reply = await call("generate", "test", max_new_tokens=1, best_of=2, do_sample=True, decoder_input_details=True)
    assert reply.details.seed is not None
    [other] = reply.details.best_of_sequences
    assert other.seed is not None
    assert other.generated_text == "t"


async def test_Y1_every_parameter(call: Call) -> None:
    reply = await call(
        "generate",
        "one two three",
        do_sample=True,
        max_new_tokens=50,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
        return_full_text=True,
        seed=7,
        stop_sequences=["two"],
        temperature=0.5,
        top_k=10,
        top_p=0.9,
        truncate=20,
        typical_p=0.9,
        watermark=True,
        decoder_input_details=False,
        top_n_tokens=2,
    )
    assert reply.generated_text == "one two threeone two"
    assert reply.details.finish_reason == FinishReason.StopSequence
    assert reply.details.seed == 7
    assert {len(each) for each in reply.details.top_tokens} == {2}


async def test_Y1_generate_stream(call: Call) -> None:
    [event] = await call("generate_stream", "test", max_new_tokens=1)
    assert event.generated_text == "t"
    assert event.details.finish_reason == FinishReason.Length
    assert event.details.generated_tokens == 1
    assert event.details.seed is None
    *events, last = await call("generate_stream", "test", top_n_tokens=1)
    assert [each.token.text for each in events] == list("test")
    assert {each.generated_text for each in events} == {None}
    assert (last.generated_text, last.details.finish_reason) == ("test", FinishReason.EndOfSequenceToken)
    assert len(last.top_tokens) == 1


@pytest.mark.parametrize("method", ["generate", "generate_stream"])
async def test_Y1_too_many_tokens_are_a_validation_error(call: Call, short_server: LiveServer, method: str) -> None:
    with pytest.raises(ValidationError, match="`inputs` tokens"):
        await call(method, "test", max_new_tokens=10_000, url=short_server.url)


async def test_Y1_a_failed_generation(call: Call) -> None:
    for method in ("generate", "generate_stream"):
        with pytest.raises(GenerationError, match="Request failed during generation"):
            await call(method, "boom")


async def test_Y1_overload(call: Call, tmp_path: Path) -> None:
    runner = GatedRunner(next_token=echo)
    with fake_server(tmp_path, runner=runner, max_concurrent_requests=1) as server:
        async with server.client() as client:
            with runner.held():
                first = asyncio.ensure_future(client.post("/generate", json={"inputs": "first"}))
                await server.until_submitted(1)
                for method in ("generate", "generate_stream"):
                    with pytest.raises(OverloadedError, match="Model is overloaded"):
                        await call(method, "second", url=server.url)
            assert (await first).json() == {"generated_text": "first"}


async def test_Y1_grammar(call: Call) -> None:
    with pytest.raises(GenerationError, match="grammar is not supported"):
        await call("generate", "test", grammar=Grammar(type=GrammarType.Regex, value="a+"))


async def test_Y1_chat(call: Call) -> None:
    reply = await call("chat", MESSAGES, max_tokens=100, seed=1)
    [choice] = reply.choices
    assert (choice.message.content, choice.finish_reason) == (PROMPT, "stop")
    assert reply.usage["completion_tokens"] == len(PROMPT) + 1
