"""Arguments of the client's methods, each named once. Absent or None: the server's default."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypedDict

import httpx

__all__ = [
    "DEFAULT_TIMEOUT",
    "CallOptions",
    "ChatOptions",
    "CompletionOptions",
    "GenerateOptions",
    "Options",
    "Timeout",
    "split",
]

Timeout = float | httpx.Timeout | None
DEFAULT_TIMEOUT = httpx.Timeout(connect=5.0, read=120.0, write=30.0, pool=None)


class CallOptions(TypedDict, total=False):
    """What every call understands; the same names are defaults of the client (``with_options``)."""

    endpoint: str | None
    """Id of the one endpoint to use."""
    session: str | None
    """Requests of one session go to the same endpoint."""
    priority: int
    """Lower goes first in the line; in order of arrival inside one priority. Default 0."""
    request_id: str | None
    timeout: Timeout
    """Seconds for each of connect, write, read and pool, or an ``httpx.Timeout``; None: no limit."""
    deadline: float | None
    """Seconds for everything: waiting, all attempts, reading the answer."""
    queue_timeout: float | None
    """Seconds to wait for a slot; default: the endpoint's."""
    max_retries: int | None
    """Instead of the retry policy's."""
    extra_headers: Mapping[str, str]
    extra_body: Mapping[str, Any]
    """Merged into the body last; a mapping that is there already (``parameters``) is merged with, not replaced."""


class _GenerateParameters(TypedDict, total=False):
    best_of: int | None
    temperature: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    top_k: int | None
    top_p: float | None
    typical_p: float | None
    do_sample: bool | None
    max_new_tokens: int | None
    return_full_text: bool | None
    stop: Sequence[str] | str | None
    truncate: int | None
    watermark: bool | None
    decoder_input_details: bool | None
    seed: int | None
    top_n_tokens: int | None
    grammar: Mapping[str, Any] | None
    adapter_id: str | None


class _CompletionParameters(TypedDict, total=False):
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    stop: Sequence[str] | str | None
    seed: int | None
    suffix: str | None
    n: int | None
    logprobs: Any
    stream_options: Mapping[str, Any] | None


class _ChatParameters(TypedDict, total=False):
    max_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    top_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    stop: Sequence[str] | str | None
    seed: int | None
    n: int | None
    logprobs: bool | None
    top_logprobs: int | None
    logit_bias: Any
    stream_options: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: Any
    tool_prompt: str | None
    response_format: Mapping[str, Any] | None
    guideline: str | None


class GenerateOptions(_GenerateParameters, CallOptions, total=False):
    pass


class CompletionOptions(_CompletionParameters, CallOptions, total=False):
    pass


class ChatOptions(_ChatParameters, CallOptions, total=False):
    pass


@dataclass(frozen=True, slots=True)
class Options:
    """``CallOptions`` with every field filled."""

    endpoint: str | None = None
    session: str | None = None
    priority: int = 0
    request_id: str | None = None
    timeout: Timeout = field(default_factory=lambda: DEFAULT_TIMEOUT)
    deadline: float | None = None
    queue_timeout: float | None = None
    max_retries: int | None = None
    extra_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Raises TypeError for a name that is no option."""
        unknown = changes.keys() - OPTION_NAMES
        if unknown:
            raise _unknown(min(unknown), OPTION_NAMES)
        return replace(self, **changes) if changes else self


OPTION_NAMES = frozenset(option.name for option in fields(Options))


def split(arguments: Mapping[str, Any], parameters: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """``arguments`` as (parameters that are set, call options).

    ``parameters`` is one of the TypedDicts above. Raises TypeError for a name that is neither: the servers ignore
    what they do not know, so a misspelt parameter would go unnoticed.
    """
    known: frozenset[str] = parameters.__optional_keys__  # type: ignore[attr-defined]
    body: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in OPTION_NAMES:
            options[name] = value
        elif name not in known:
            raise _unknown(name, known)
        elif value is not None:
            body[name] = value
    return body, options


def _unknown(name: str, known: frozenset[str]) -> TypeError:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; parameters of one server only go into extra_body"
    return TypeError(f"unknown argument {name!r}{hint}")
