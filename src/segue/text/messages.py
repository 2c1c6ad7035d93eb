"""Chat messages as they come over the wire, made into what chat templates read (spec 4.2 and 4.4)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

__all__ = ["DEFAULT_TOOL_PROMPT", "append_tool_prompt", "template_messages"]

DEFAULT_TOOL_PROMPT = (
    "\nGiven the functions available, please respond with a JSON for a function call with its proper arguments that"
    " best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of argument"
    " name and its value}.Do not use variables.\n"
)


def template_messages(
    messages: Sequence[Mapping[str, Any]],
    *,
    uses_tool_calls: bool,
    allows_many_calls: bool = True,
    needs_short_ids: bool = False,
) -> list[dict[str, Any]]:
    """``role`` and ``content``, always one string: chunks are joined, an image becomes ``![](URL)``.

    With ``uses_tool_calls`` (``ChatTemplate.uses_tool_calls``) an assistant's ``tool_calls`` reach the template, each
    ``arguments`` as the object that it spells; otherwise, as in TGI, they are its content, as JSON, unless it has one.
    A tool's answer keeps ``tool_call_id`` and ``name``, which TGI drops; a missing name is the answered call's.

    Where a template refuses several calls in a message (``allows_many_calls``), each gets one of its own, followed by
    its answers; where it refuses ids that are not nine letters and digits (``needs_short_ids``), those are replaced.
    """
    result = [_template_message(message, uses_tool_calls) for message in _with_names(messages)]
    if uses_tool_calls and not allows_many_calls:
        result = _one_call_a_message(result)
    return [_with_short_ids(message) for message in result] if needs_short_ids else result


def append_tool_prompt(
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    tool_prompt: str | None = None,
    uses_tools: bool,
) -> list[dict[str, Any]]:
    """``messages`` of a template with TGI's request for a tool call at the end of the last one's content.

    ``uses_tools``: the template shows the tools by itself (``ChatTemplate.uses_tools``); if not, they come as JSON
    before the prompt. An empty ``tool_prompt`` is the default one.
    """
    if not messages:
        return []
    *earlier, last = messages
    listing = "" if uses_tools else _tools_json(tools) + "\n"
    request = f"\n---\n{listing}{tool_prompt or DEFAULT_TOOL_PROMPT}"
    return [*earlier, {**last, "content": last["content"] + request}]


def _template_message(message: Mapping[str, Any], uses_tool_calls: bool) -> dict[str, Any]:
    content = message.get("content")
    tool_calls = message.get("tool_calls")
    result: dict[str, Any] = {"role": message["role"], "content": _text_of(content)}
    if tool_calls and uses_tool_calls:
        result["tool_calls"] = [_with_parsed_arguments(call) for call in tool_calls]
    elif tool_calls and not result["content"]:
        result["content"] = _compact_json([_tgi_tool_call(call) for call in tool_calls])
    if message["role"] == "tool":
        result |= {key: message[key] for key in ("tool_call_id", "name") if message.get(key) is not None}
    return result


def _text_of(content: str | Sequence[Mapping[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(
        f"![]({chunk['image_url']['url']})" if chunk["type"] == "image_url" else chunk["text"] for chunk in content
    )


class Arguments(dict[str, Any]):
    """A call's arguments, an object. Templates that take them for the text that the wire has get that text."""

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other: Any) -> Any:
        return str(self) + other

    def __radd__(self, other: Any) -> Any:
        return other + str(self)


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            # A call that the model wrote wrongly stays the text that it wrote.
            return {**call, "function": function}
    function["arguments"] = Arguments(arguments) if isinstance(arguments, dict) else arguments
    return {**call, "function": function}


def _with_names(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    names: dict[Any, Any] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            names[call.get("id")] = call["function"].get("name")
        is_nameless = message["role"] == "tool" and message.get("name") is None
        if is_nameless and message.get("tool_call_id") in names:
            yield {**message, "name": names[message["tool_call_id"]]}
        else:
            yield message


def _one_call_a_message(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    rest = list(reversed(messages))
    while rest:
        message = rest.pop()
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            result.append(message)
            continue
        answers: dict[Any, list[dict[str, Any]]] = {}
        while rest and rest[-1]["role"] == "tool":
            answers.setdefault(rest[-1].get("tool_call_id"), []).append(rest.pop())
        for index, call in enumerate(calls):
            content = message["content"] if index == 0 else ""
            result += [{**message, "content": content, "tool_calls": [call]}, *answers.pop(call.get("id"), [])]
        result += [answer for group in answers.values() for answer in group]
    return result


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    result = dict(message)
    if "tool_calls" in message:
        result["tool_calls"] = [{**call, "id": _short_id(call.get("id"))} for call in message["tool_calls"]]
    if "tool_call_id" in message:
        result["tool_call_id"] = _short_id(message["tool_call_id"])
    return result


def _short_id(given: object) -> str:
    text = str(given)
    is_short = len(text) == 9 and text.isascii() and text.isalnum()
    return text if is_short else blake2b(text.encode(), digest_size=5).hexdigest()[:9]


def _tgi_tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": call.get("id"), "type": call.get("type", "function"), "function": _tgi_function(call["function"])}


def _tools_json(tools: Sequence[Mapping[str, Any]]) -> str:
    return _compact_json(
        [{"type": tool.get("type", "function"), "function": _tgi_function(tool["function"])} for tool in tools]
    )


def _tgi_function(function: Mapping[str, Any]) -> dict[str, Any]:
    """TGI keeps one shape for definitions and calls, with ``arguments`` as JSON text."""
    arguments = function.get("arguments", function.get("parameters"))
    return {
        "description": function.get("description"),
        "name": function.get("name"),
        "arguments": arguments if isinstance(arguments, str) else _compact_json(arguments),
    }


def _compact_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
