"""``huggingface_hub.InferenceClient``, as it is on PyPI, against a running server."""

import asyncio

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import GenerationError, HfHubHTTPError, OverloadedError, ValidationError
from serving import RunningServer

MESSAGES = [{"role": "user", "content": "Good day"}]
PROMPT = "<user>Good day<assistant>"


@pytest.fixture
def client(server: RunningServer) -> InferenceClient:
    return InferenceClient(model=server.url, token=server.api_key)


def test_Y2_text_generation(client: InferenceClient) -> None:
    assert client.text_generation("héllo 😀", return_full_text=False) == "héllo 😀"
    # Sent to "/", whose default is the full text.
    assert client.text_generation("hello") == "hellohello"


def test_Y2_text_generation_with_details(client: InferenceClient) -> None:
    reply = client.text_generation("abc", details=True, return_full_text=False, top_n_tokens=2, max_new_tokens=2)
    assert reply.generated_text == "ab"
    assert reply.details.finish_reason == "length"
    assert reply.details.generated_tokens == 2
    assert reply.details.seed is None
    assert [token.text for token in reply.details.tokens] == ["a", "b"]
    assert reply.details.tokens[0].logprob == -0.5
    assert [len(tops) for tops in reply.details.top_tokens] == [2, 2]


def test_Y2_best_of(client: InferenceClient) -> None:
    reply = client.text_generation("abc", details=True, best_of=2, do_sample=True, return_full_text=False)
    assert reply.details.seed is not None
    [other] = reply.details.best_of_sequences
    assert other.generated_text == "abc"


def test_Y2_text_generation_stream(client: InferenceClient) -> None:
    # The client shows the text of every token, EOS among them, as it does with TGI.
    assert "".join(client.text_generation("héllo", stream=True)) == "héllo</s>"
    *tokens, last = client.text_generation("abc", stream=True, details=True, return_full_text=False)
    assert [event.index for event in tokens] == [1, 2, 3]
    assert [event.token.text for event in tokens] == ["a", "b", "c"]
    assert last.generated_text == "abc"
    assert (last.details.finish_reason, last.details.generated_tokens, last.details.input_length) == ("eos_token", 4, 4)
    assert last.token.special


def test_Y2_stop_sequences(client: InferenceClient) -> None:
    reply = client.text_generation("one two three", stop=["two"], details=True, return_full_text=False)
    assert (reply.generated_text, reply.details.finish_reason) == ("one two", "stop_sequence")


def test_Y2_errors_become_the_clients_own(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        client.text_generation("hello", temperature=-1.0)
    with pytest.raises(ValidationError, match="strictly positive"):
        list(client.text_generation("hello", temperature=-1.0, stream=True, details=True))
    with pytest.raises(GenerationError, match="Request failed during generation: the fake device failed"):
        client.text_generation("boom")
    with pytest.raises(GenerationError):
        list(client.text_generation("boom", stream=True))


async def test_Y2_Q1_overload_becomes_the_clients_own(server: RunningServer) -> None:
    async with AsyncInferenceClient(model=server.url, token=server.api_key) as client:
        streams = [await client.text_generation("endless", stream=True) for _ in range(server.max_concurrent_requests)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(OverloadedError, match="Model is overloaded"):
            await client.text_generation("hello")
        for stream in streams:
            await stream.aclose()
        async with asyncio.timeout(20):
            while server.stats.num_running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await client.text_generation("hello", return_full_text=False) == "hello"


def test_Y2_chat(client: InferenceClient) -> None:
    reply = client.chat_completion(MESSAGES, logprobs=True, top_logprobs=1)
    [choice] = reply.choices
    assert choice.message.content == PROMPT
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert choice.logprobs.content[0].token == "<"
    assert reply.usage.total_tokens == 2 * len(PROMPT) + 1
    with pytest.raises(HfHubHTTPError) as caught:
        client.chat_completion(MESSAGES, max_tokens=0)
    assert caught.value.response.status_code == 422


def test_Y2_chat_stream(client: InferenceClient) -> None:
    chunks = list(client.chat_completion(MESSAGES, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == PROMPT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == len(PROMPT) + 1


async def test_Y2_the_asynchronous_client(server: RunningServer) -> None:
    async with AsyncInferenceClient(model=server.url, token=server.api_key) as client:
        assert await client.text_generation("hello", return_full_text=False) == "hello"
        stream = await client.text_generation("hello", stream=True)
        assert [text async for text in stream] == [*"hello", "</s>"]
        chunks = [chunk async for chunk in await client.chat_completion(MESSAGES, stream=True, max_tokens=3)]
        assert [chunk.choices[0].delta.content for chunk in chunks] == list(PROMPT[:3])


def test_H1_a_wrong_key(server: RunningServer) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(model=server.url, token="wrong").text_generation("hello")
    assert caught.value.response.status_code == 401
