"""Chat messages as they come over the wire, made into what chat templates read (spec 4.2 and 4.4)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["DEFAULT_TOOL_PROMPT", "append_tool_prompt", "template_messages"]

DEFAULT_TOOL_PROMPT = (
    "\nGiven the functions available, please respond with a JSON for a function call with its proper arguments that"
    " best answers the given prompt. Respond in the format {name: function name, parameters: dictionary of argument"
    " name and its value}.Do not use variables.\n"
)


def template_messages(messages: Sequence[Mapping[str, Any]], *, uses_tool_calls: bool) -> list[dict[str, Any]]:
    """``role`` and ``content``, always one string: chunks are joined, an image becomes ``![](URL)``.

    With ``uses_tool_calls`` (``ChatTemplate.uses_tool_calls``) an assistant's ``tool_calls`` reach the template, each
    ``arguments`` as the object that it spells; otherwise, as in TGI, they are its content, as JSON, unless it has one.
    A tool's answer keeps ``tool_call_id`` and ``name``, which TGI drops.
    """
    return [_template_message(message, uses_tool_calls) for message in messages]


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
    elif tool_calls and content is None:
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


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments)
        except (ValueError, RecursionError):
            # A call that the model wrote wrongly stays the text that it wrote.
            function["arguments"] = arguments
    return {**call, "function": function}


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
