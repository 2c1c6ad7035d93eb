"""``anthropic``, as it is on PyPI, against a running server."""

from collections.abc import Iterator

import anthropic
import pytest
from anthropic import Anthropic
from serving import RunningServer

MESSAGES = [{"role": "user", "content": "Good day"}]
PROMPT = "<user>Good day<assistant>"


@pytest.fixture
def client(server: RunningServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key=server.api_key, max_retries=0) as client:
        yield client


def test_a_message(client: Anthropic) -> None:
    reply = client.messages.create(model="m", max_tokens=100, messages=MESSAGES, system="Be kind")
    assert [block.text for block in reply.content] == [f"<system>Be kind{PROMPT}"]
    assert (reply.model, reply.role, reply.stop_reason, reply.stop_sequence) == ("m", "assistant", "end_turn", None)
    assert reply.usage.input_tokens == len(f"<system>Be kind{PROMPT}")
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Good "}, {"type": "text", "text": "day"}]}]
    assert client.messages.create(model="m", max_tokens=100, messages=blocks).content[0].text == PROMPT
    cut = client.messages.create(model="m", max_tokens=3, messages=MESSAGES, extra_body={"temperature": 0})
    assert (cut.stop_reason, cut.content[0].text, cut.usage.output_tokens) == ("max_tokens", "<us", 3)


@pytest.mark.parametrize("stops", [["day"], ["xyz", "ood day<never", "ay<", "day"]])
def test_a_stop_sequence_is_named_and_not_in_the_text(client: Anthropic, stops: list[str]) -> None:
    fields = {"model": "m", "max_tokens": 100, "messages": MESSAGES, "stop_sequences": stops}
    reply = client.messages.create(**fields)
    assert (reply.content[0].text, reply.stop_reason, reply.stop_sequence) == (
        "<user>Good ",
        "stop_sequence",
        "day",
    )
    with client.messages.stream(**fields) as stream:
        assert "".join(stream.text_stream) == "<user>Good "
        assert stream.get_final_message().stop_sequence == "day"


@pytest.mark.parametrize("stops", [[], ["never seen"]])
def test_a_stream(client: Anthropic, stops: list[str]) -> None:
    with client.messages.stream(model="m", max_tokens=100, messages=MESSAGES, stop_sequences=stops) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_message()
    assert (final.content[0].text, final.stop_reason) == (PROMPT, "end_turn")
    assert final.usage.output_tokens == len(PROMPT) + 1
    assert (events[0], events[-1]) == ("message_start", "message_stop")


def test_counting(client: Anthropic) -> None:
    assert client.messages.count_tokens(model="m", messages=MESSAGES).input_tokens == len(PROMPT)


def test_H5_errors_become_the_clients_own(client: Anthropic, server: RunningServer) -> None:
    with pytest.raises(anthropic.UnprocessableEntityError) as caught:
        client.messages.create(model="m", max_tokens=0, messages=MESSAGES)
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    assert "strictly positive" in caught.value.body["error"]["message"]
    with pytest.raises(anthropic.APIError, match="strictly positive"):
        list(client.messages.create(model="m", max_tokens=0, messages=MESSAGES, stream=True))
    search = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.UnprocessableEntityError, match="`tools` of the type web_search_20250305 are not"):
        client.messages.create(model="m", max_tokens=1, messages=MESSAGES, tools=[search])
    with Anthropic(base_url=server.url, api_key="wrong") as stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model="m", max_tokens=1, messages=MESSAGES)
