"""``openai``, as it is on PyPI, against a running server."""

from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from serving import RunningServer

MESSAGES = [{"role": "user", "content": "Good day"}]
PROMPT = "<user>Good day<assistant>"


@pytest.fixture
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=server.api_key, max_retries=0) as client:
        yield client


def test_Y3_chat(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="any-name", messages=MESSAGES)
    assert reply.model == "any-name"
    assert reply.choices[0].message.content == PROMPT
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(PROMPT) + 1


def test_Y3_chat_logprobs(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="m", messages=MESSAGES, logprobs=True, top_logprobs=2, max_tokens=1, temperature=0
    )
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].logprobs is not None
    [token] = reply.choices[0].logprobs.content or []
    assert (token.token, token.logprob, len(token.top_logprobs)) == ("<", -0.5, 2)


def test_Y3_chat_stream(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == PROMPT
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == len(PROMPT)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"


def test_Y3_the_streaming_helper_puts_the_chunks_together(client: OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content == text == PROMPT


def test_Y3_completions(client: OpenAI) -> None:
    reply = client.completions.create(model="m", prompt=["one", "three"])
    assert [(choice.index, choice.text) for choice in reply.choices] == [(0, "one"), (1, "three")]


def test_Y3_completions_stream(client: OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(model="m", prompt=["one", "three"], stream=True, max_tokens=3):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "one", 1: "thr"}


def test_Y3_errors_become_the_clients_own(client: OpenAI, server: RunningServer) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=0)
    assert caught.value.code == "validation"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.body["message"] == "Input validation error: `max_new_tokens` must be strictly positive"
    with pytest.raises(openai.APIError, match="strictly positive"):
        list(client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=0, stream=True))
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).completions.create(model="m", prompt="a")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_Y3_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["test/model"]
    assert client.models.retrieve("test/model").owned_by == "test/model"


async def test_Y3_the_asynchronous_client(server: RunningServer) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.api_key) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == PROMPT


def test_P4_what_tgi_has_not(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="m", messages=MESSAGES, n=2, stop="never", top_p=1, logit_bias={"5": 0}, presence_penalty=0
    )
    assert [choice.message.content for choice in reply.choices] == [PROMPT, PROMPT]
    assert reply.id.startswith("chatcmpl-")
    completion = client.completions.create(model="m", prompt=[[5, 6], [7]], n=2, logprobs=1, echo=False)
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert completion.choices[0].logprobs is not None
    stream = client.completions.create(
        model="m", prompt="one", stream=True, echo=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].text for chunk in chunks) == "oneone</s>"
    assert last.usage is not None


def test_Y3_responses(client: OpenAI) -> None:
    reply = client.responses.create(model="m", input="Good day", instructions="Be kind", metadata={"a": "b"})
    assert reply.output_text == "<system>Be kind<user>Good day<assistant>"
    assert (reply.status, reply.model, reply.metadata) == ("completed", "m", {"a": "b"})
    assert reply.usage is not None
    assert reply.usage.output_tokens == len(reply.output_text) + 1
    given = [{"role": "developer", "content": [{"type": "input_text", "text": "x"}]}, *MESSAGES]
    assert client.responses.create(model="m", input=given).output_text == f"<system>x{PROMPT}"
    cut = client.responses.create(model="m", input="Good day", max_output_tokens=3)
    assert (cut.status, cut.output_text) == ("incomplete", "<us")
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"


def test_Y3_responses_stream(client: OpenAI) -> None:
    with client.responses.stream(model="m", input="Good day") as stream:
        events = list(stream)
        assert stream.get_final_response().output_text == PROMPT
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == PROMPT
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert [each.sequence_number for each in events] == list(range(len(events)))


def test_H5_errors_of_responses(client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="strictly positive"):
        client.responses.create(model="m", input="a", max_output_tokens=0)
    with pytest.raises(openai.APIError, match="strictly positive"):
        list(client.responses.create(model="m", input="a", max_output_tokens=0, stream=True))
    with pytest.raises(openai.UnprocessableEntityError, match="`previous_response_id` is not supported"):
        client.responses.create(model="m", input="a", previous_response_id="resp_1")
