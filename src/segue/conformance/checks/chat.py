"""The OpenAI-shaped side of the server."""

from segue.client import APIStatusError, NotFoundError
from segue.conformance.check import CheckFailed, CheckSkipped, collect, expect
from segue.conformance.lab import Lab

__all__ = ["CHECKS"]

# A red pixel.
IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
)
_NO_TEMPLATE = ("template", "chat")


async def chat_method(lab: Lab) -> None:
    """A message gets an answer with its usage; streamed, the same."""
    question = "Say hello."
    async with lab.client() as client:
        try:
            whole = await client.chat(question, max_tokens=8, temperature=0)
        except APIStatusError as error:
            if isinstance(error, NotFoundError) or any(word in error.message.lower() for word in _NO_TEMPLATE):
                raise CheckSkipped(f"the model has no chat: {error.message}") from error
            raise
        usage = {"include_usage": True}
        async with await client.chat(
            question, max_tokens=8, temperature=0, stream=True, stream_options=usage
        ) as stream:
            streamed = await stream.final()
    expect(whole.choices and whole.choices[0].message.role == "assistant", "the answer is not the assistant's")
    expect(whole.choices[0].finish_reason, "the answer has no finish_reason")
    counts = whole.usage.prompt_tokens, whole.usage.completion_tokens
    expect(all(counts), f"usage is {counts}")
    expect(streamed.text == whole.text, f"streamed {streamed.text!r}, whole {whole.text!r}")
    again = streamed.usage.prompt_tokens, streamed.usage.completion_tokens
    expect(again == counts, f"streamed, usage is {again}, else {counts}")


async def image_processing(lab: Lab) -> None:
    """The parts of a message reach the server untouched; whether its model can see is the server's matter."""
    parts = [{"type": "text", "text": "What colour is this?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    refusal: APIStatusError | None = None
    async with lab.client() as client:
        try:
            answer = await client.chat([{"role": "user", "content": parts}], max_tokens=8)
        except APIStatusError as error:
            refusal = error
    arrived = lab.proxy.generations[0].body["messages"][0]["content"]
    expect(arrived == parts, "the parts arrived changed")
    if refusal is not None:
        if refusal.status_code >= 500:
            raise CheckFailed(f"the server broke: {refusal}") from refusal
        raise CheckSkipped(f"the model takes no images: {refusal.message}")
    expect(answer.choices, "there is no answer")


CHECKS = collect(chat_method, image_processing)
