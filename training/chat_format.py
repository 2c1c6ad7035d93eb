"""The chat model's special tokens and chat template, and the same format in Python for the training text."""

from __future__ import annotations

import json
from typing import Any

from training.document import Piece, Turn

END_OF_TEXT = "<|endoftext|>"
BEGIN = "<|begin|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
# In the order of their ids, from 0.
SPECIAL_TOKENS = (END_OF_TEXT, BEGIN, TURN_START, TURN_END)
TOOL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

_TOOLS_INTRO = "You can call these tools:"
_TOOLS_OUTRO = 'To call a tool, write <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call>.'

CHAT_TEMPLATE = (
    """\
{{- bos_token }}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '"""
    + _TOOLS_INTRO
    + """' }}
    {%- for tool in tools %}
        {{- '\\n' + (tool | tojson) }}
    {%- endfor %}
    {{- '\\n"""
    + _TOOLS_OUTRO
    + """<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first and tools %}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>tool\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls %}
            {%- set function = call.function if call.function is defined else call %}
            {{- '\\n<tool_call>\\n{"name": "' + function.name + '", "arguments": ' }}
            {%- set given = function.arguments %}
            {{- (given if given is string else given | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.content is string %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- for part in message.content if part.type == 'text' %}
            {{- part.text }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
)


def render(turns: list[Turn], tools: list[dict[str, Any]] | None = None) -> list[Piece]:
    """The text that `CHAT_TEMPLATE` makes of `turns` (after the begin token); the assistant's words are learned."""
    pieces: list[Piece] = []
    if tools:
        system = ""
        if turns[0].role == "system":
            system, turns = turns[0].text + "\n\n", turns[1:]
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        outro = _TOOLS_OUTRO.replace("\\n", "\n")
        pieces.append(Piece(f"{TURN_START}system\n{system}{_TOOLS_INTRO}\n{listed}\n{outro}{TURN_END}\n", False))
    for turn in turns:
        if turn.role == "assistant":
            pieces += [Piece(f"{TURN_START}assistant\n", False), Piece(turn.text + TURN_END, True), Piece("\n", False)]
        elif turn.role == "tool":
            pieces.append(Piece(f"{TURN_START}tool\n<tool_response>\n{turn.text}\n</tool_response>{TURN_END}\n", False))
        else:
            pieces.append(Piece(f"{TURN_START}{turn.role}\n{turn.text}{TURN_END}\n", False))
    return pieces
