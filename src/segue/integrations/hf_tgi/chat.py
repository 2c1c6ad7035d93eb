"""Between the old shapes of a conversation and the wire's. No I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from segue.client import NotFoundError, ValidationError
from segue.client.types import RawResponse

__all__ = ["Messages", "chat_body", "chunks", "delta_of", "has_no_chat", "marked_up", "prompt_parameters", "usage_of"]

Messages: TypeAlias = Sequence[Mapping[str, Any]]

_NAMES = {"max_new_tokens": "max_tokens"}
_HANDLED = ("request_id", "endpoint_id", "stream", "top_k", "return_full_text", "do_sample", "details")


def chat_body(messages: Messages, options: Mapping[str, Any]) -> dict[str, Any]:
    """For ``/v1/chat/completions``; sampling is on there unless the temperature is 0, and has no top_k."""
    given = {_NAMES.get(name, name): value for name, value in options.items() if name not in _HANDLED}
    return {"model": "tgi", "messages": list(messages), **given}


def prompt_parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """For ``/generate``, with the details that hold the token counts."""
    names = {new: old for old, new in _NAMES.items()}
    handled = ("request_id", "endpoint_id", "stream")
    given = {names.get(name, name): value for name, value in options.items() if name not in handled}
    return {**given, "details": True}


def has_no_chat(error: Exception) -> bool:
    """Whether the server has no chat route (TGI before 1.4), or its model no template."""
    return isinstance(error, NotFoundError) or (
        isinstance(error, ValidationError) and error.error_type == "template_error"
    )


def marked_up(messages: Messages) -> str:
    """A prompt for models without a template: each turn under its role's marker; unknown roles are the user's."""
    turns = []
    for message in messages:
        role = message.get("role")
        turns.append(f"<|{role if role in ('system', 'assistant') else 'user'}|>\n{message.get('content') or ''}\n")
    return "".join(turns) + "<|assistant|>\n"


def usage_of(answer: RawResponse) -> dict[str, int]:
    """The server's counts; without those that it does not give."""
    usage = answer.usage
    counts = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    return {name: count for name, count in counts.items() if count is not None}


def delta_of(event: Mapping[str, Any]) -> str:
    """What an event of either kind of stream adds to the text."""
    if token := event.get("token"):
        return "" if token.get("special") else str(token["text"])
    choices = event.get("choices") or ()
    return (
        str((choices[0].get("delta") or {}).get("content") or "") if choices else str(event.get("generated_text") or "")
    )


def chunks(events: Iterable[Mapping[str, Any]], head: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """``{text, done, …head}`` for each event that adds text, and one with ``done`` at the end."""
    for event in events:
        if text := delta_of(event):
            yield {"text": text, "done": False, **head}
    yield {"text": "", "done": True, **head}
