"""DSPy's own programs against a live server."""

import asyncio
import copy
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from client.tgi_server import Reply, Seen, TgiServer, error_reply, json_reply, sse, stream_reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import dspy

from segue.client import EndpointPool, ValidationError
from segue.integrations.dspy import AsyncSegueEngine, SegueEngine, SegueLM

# DSPy 3.4 says so at every call of a BaseLM of one's own; that is what SegueLM is.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

REASONED = "[[ ## reasoning ## ]]\nIt is known.\n\n[[ ## answer ## ]]\nParis\n\n[[ ## completed ## ]]"
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def chat(text: str | None, **message: Any) -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "eos_token"}
    head = {"id": "", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "3.3-native"}
    return json_reply({**head, "choices": [choice], "usage": USAGE})


def reasoning(seen: Seen) -> Reply:
    """A model that follows DSPy's format: in fields, or as JSON where a schema asks for it."""
    assert seen.path == "/v1/chat/completions"
    if "response_format" in seen.body:
        return chat(json.dumps({"reasoning": "It is known.", "answer": "Paris"}))
    if seen.body.get("stream"):
        chunks = [_chunk(word) for word in ("[[ ## rea", "soning", REASONED[15:])]
        return stream_reply(
            sse([*chunks, _chunk("", "stop"), {**_chunk(""), "choices": [], "usage": USAGE}], done=True)
        )
    return chat(REASONED)


def _chunk(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"id": "", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


@pytest.fixture
def server() -> Iterator[TgiServer]:
    with TgiServer(reasoning) as running:
        yield running


@pytest.fixture
def lm(server: TgiServer) -> Iterator[SegueLM]:
    made = SegueLM(server.url, api_key="k", temperature=0.0, max_tokens=50)
    yield made
    made.close()


def test_chain_of_thought(lm: SegueLM, server: TgiServer) -> None:
    with dspy.context(lm=lm):
        prediction = dspy.ChainOfThought("question -> answer")(question="The capital of France?")
    assert (prediction.reasoning, prediction.answer) == ("It is known.", "Paris")
    [seen] = server.posts
    assert seen.key == "k"
    assert (seen.body["model"], seen.body["temperature"], seen.body["max_tokens"]) == ("tgi", 0.0, 50)
    assert "The capital of France?" in seen.body["messages"][-1]["content"]
    assert lm.history[-1]["usage"]["completion_tokens"] == 3


async def test_chain_of_thought_async(lm: SegueLM, server: TgiServer) -> None:
    with dspy.context(lm=lm):
        program = dspy.ChainOfThought("question -> answer")
        predictions = await asyncio.gather(*(program.acall(question=f"{n}?") for n in range(3)))
    assert [prediction.answer for prediction in predictions] == ["Paris"] * 3
    await lm.aclose()


def test_json_adapter_asks_for_a_schema_in_tgis_words(lm: SegueLM, server: TgiServer) -> None:
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        prediction = dspy.ChainOfThought("question -> answer")(question="The capital of France?")
    assert prediction.answer == "Paris"
    grammar = server.posts[0].body["response_format"]
    assert grammar["type"] == "json"
    assert set(grammar["value"]["properties"]) == {"reasoning", "answer"}


def test_several_choices_are_several_requests(lm: SegueLM, server: TgiServer) -> None:
    assert len(lm("hi", n=3, temperature=0.9, seed=5)) == 3
    assert sorted(seen.body["seed"] for seen in server.posts) == [5, 6, 7]
    assert not any("n" in seen.body for seen in server.posts)


def test_tool_calls(lm: SegueLM, server: TgiServer) -> None:
    call = {"id": "0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.replies.append(chat(None, tool_calls=[call]))
    [output] = lm("hi", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    [made] = output["tool_calls"]
    function = made["function"] if isinstance(made, dict) else made.function
    assert (function["name"] if isinstance(function, dict) else function.name) == "f"


def test_errors_are_the_clients(lm: SegueLM, server: TgiServer) -> None:
    server.replies.append(error_reply(422, "validation", "too long"))
    with pytest.raises(ValidationError, match="too long"):
        lm("hi")


def test_programs_with_it_can_be_copied_and_it_can_be_saved(lm: SegueLM, server: TgiServer) -> None:
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    assert copy.deepcopy(program).lm is not lm
    assert program.deepcopy()(question="?").answer == "Paris"
    state = lm.dump_state()
    assert "k" not in state.values()
    loaded = SegueLM.load_state(state)
    assert loaded.kwargs["max_tokens"] == 50
    assert loaded("hi") == [REASONED]
    loaded.close()
    pooled = SegueLM(pool=EndpointPool([server.url]))
    with pytest.raises(ValueError, match="cannot be saved"):
        pooled.dump_state()
    pooled.close()


def test_engine_chain_of_thought(server: TgiServer) -> None:
    engine = SegueEngine(server.url, api_key="k")
    lm = dspy.LM("segue/m", engine=engine, cache=False, max_tokens=50, temperature=0.5, stop=["end"])
    with dspy.context(lm=lm):
        prediction = dspy.ChainOfThought("question -> answer")(question="The capital of France?")
    assert prediction.answer == "Paris"
    [seen] = server.posts
    assert seen.key == "k"
    assert (seen.body["max_tokens"], seen.body["temperature"], seen.body["stop"]) == (50, 0.5, ["end"])
    engine.close()


async def test_async_engine(server: TgiServer) -> None:
    async_engine = AsyncSegueEngine(server.url)
    lm = dspy.LM("segue/m", engine=SegueEngine(server.url), async_engine=async_engine, cache=False)
    with dspy.context(lm=lm):
        prediction = await dspy.ChainOfThought("question -> answer").acall(question="The capital of France?")
    assert prediction.answer == "Paris"
    request = dspy.lm15.Request(model="segue/m", messages=(dspy.lm15.Message.user("hi"),))
    streamed = [event async for event in async_engine.stream(request)]
    assert "".join(event.delta.text for event in streamed if event.type == "delta") == REASONED
    await async_engine.aclose()


def test_engine_streams(server: TgiServer) -> None:
    engine = SegueEngine(server.url)
    request = dspy.lm15.Request(model="segue/m", messages=(dspy.lm15.Message.user("hi"),))
    start, *deltas, end = engine.stream(request)
    assert (start.type, end.type) == ("start", "end")
    assert "".join(event.delta.text for event in deltas) == REASONED
    assert (end.finish_reason, end.usage.output_tokens) == ("stop", 3)
    response = engine.complete(request)
    assert (response.message.text, response.finish_reason, response.usage.input_tokens) == (REASONED, "stop", 7)
    engine.close()


def test_engine_tool_calls_of_a_stream(server: TgiServer) -> None:
    def chunk(name: str | None, arguments: str, finish_reason: str | None = None) -> dict[str, Any]:
        call = {"index": 0, "id": "0", "type": "function", "function": {"name": name, "arguments": arguments}}
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": finish_reason}]}

    server.replies.append(stream_reply(sse([chunk("f", "{"), chunk(None, "}", "stop")], done=True)))
    engine = SegueEngine(server.url)
    request = dspy.lm15.Request(model="m", messages=(dspy.lm15.Message.user("hi"),))
    _, *deltas, end = engine.stream(request)
    assert "".join(event.delta.input for event in deltas) == "{}"
    assert deltas[0].delta.name == "f"
    assert end.finish_reason == "tool_call"
    engine.close()


@pytest.mark.parametrize(
    ("status", "error_type", "kind"),
    [
        (401, "x", "AuthError"),
        (429, "overloaded", "RateLimitError"),
        (422, "validation", "InvalidRequestError"),
        (503, "x", "ServerError"),
    ],
)
def test_engine_errors_are_dspys(server: TgiServer, status: int, error_type: str, kind: str) -> None:
    server.replies.append(error_reply(status, error_type, "failed"))
    engine = SegueEngine(server.url)
    request = dspy.lm15.Request(model="m", messages=(dspy.lm15.Message.user("hi"),))
    with pytest.raises(getattr(dspy.lm15, kind), match="failed") as caught:
        engine.complete(request)
    assert caught.value.status == status
    engine.close()


def test_engine_without_a_server() -> None:
    with TgiServer() as gone:
        pass
    engine = SegueEngine(gone.url)
    request = dspy.lm15.Request(model="m", messages=(dspy.lm15.Message.user("hi"),))
    with pytest.raises(dspy.lm15.TransportError):
        engine.complete(request)
    engine.close()
