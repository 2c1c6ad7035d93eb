"""How models write calls of functions: known by their chat templates."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "HERMES",
    "LLAMA",
    "MISTRAL",
    "MISTRAL_NAMES",
    "ToolFormat",
    "find_format",
    "lark_grammar",
    "needs_short_ids",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """Between the marks are objects, ``{"name": …, "arguments": …}``, or other forms of the same."""

    name: str
    opening: str
    """The mark before calls, one token in most vocabularies."""
    closing: str = ""
    """The mark behind each call, or behind all of a list; "": there is none."""
    is_list: bool = False
    """All calls are in one JSON array."""
    is_bare: bool = False
    """An answer may be a call without the opening mark."""
    name_mark: str = ""
    """Calls are a bare name, this mark, and the arguments' object; "": they are objects that hold both."""
    id_mark: str = ""
    """The name may be followed by this mark and the call's id."""
    separators: str = ""
    """Characters that may come between calls besides whitespace."""
    arguments_key: str = "arguments"
    allows_many: bool = True
    """The template can show several calls in one message."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that may be tokens of their own."""
        closing = "" if self.is_list else self.closing
        return tuple(mark for mark in (self.opening, closing, self.name_mark, self.id_mark) if mark)


HERMES = ToolFormat(name="hermes", opening="<tool_call>", closing="</tool_call>")
"""Nous Hermes, Qwen 2.5 and 3, and many others: a pair of marks around each call."""
LLAMA = ToolFormat(
    name="llama",
    opening="<|python_tag|>",
    is_bare=True,
    separators=";",
    arguments_key="parameters",
    allows_many=False,
)
"""Llama 3.1 to 3.3."""
MISTRAL = ToolFormat(name="mistral", opening="[TOOL_CALLS]", closing="]", is_list=True, separators=",")
"""Mistral's tokenizers up to version 7."""
MISTRAL_NAMES = ToolFormat(name="mistral_names", opening="[TOOL_CALLS]", name_mark="[ARGS]", id_mark="[CALL_ID]")
"""Mistral's tokenizers from version 11 on."""


def find_format(template: str) -> ToolFormat | None:
    """The format that a chat template teaches; None: none of these."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMES if "[ARGS]" in template else MISTRAL
    if "<tool_call>" in template:
        # Other models put XML between the same marks.
        others = ("<function=", "<arg_key>")
        is_json = "arguments" in template and not any(each in template for each in others)
        return HERMES if is_json else None
    if "<|python_tag|>" in template or ("ipython" in template and '"parameters": ' in template):
        return LLAMA
    return None


def needs_short_ids(template: str) -> bool:
    """Mistral's templates raise an error at other ids than nine letters and digits."""
    return "[TOOL_CALLS]" in template and "!= 9" in template


def lark_grammar(
    tool_format: ToolFormat,
    functions: Sequence[tuple[str, str]],
    *,
    token_ids: dict[str, int],
    allows_many: bool,
    template: str = "",
) -> str:
    """A grammar of answers that are calls and nothing else, spelled as ``template`` spells them.

    ``functions``: names, and JSON Schemas of their arguments as JSON text. ``token_ids``: of the marks that are tokens.
    """
    opening, closing, name_mark = (
        f"<[{token_ids[mark]}]>" if mark in token_ids else json.dumps(mark)
        for mark in (tool_format.opening, tool_format.closing, tool_format.name_mark)
    )
    repeats = allows_many and tool_format.allows_many
    if tool_format.is_list:
        bracket = json.dumps(" [" if f"{tool_format.opening} [" in template else "[")
        start = f"{opening} {bracket} call%s {closing}" % (' (", " call)*' if repeats else "")
    elif tool_format.name_mark:
        start = "call+" if repeats else "call"
    elif tool_format.is_bare:
        start = "call"
    else:
        start = "block%s" % (' ("\\n" block)*' if repeats else "") + f'\nblock: {opening} "\\n" call "\\n" {closing}'
    rules = [f"start: {start}", "call: " + " | ".join(f"call_{i}" for i in range(len(functions)))]
    for i, (name, schema) in enumerate(functions):
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{tool_format.arguments_key}": '
        call = f'{json.dumps(head)} arguments_{i} "}}"'
        if tool_format.name_mark:
            call = f"{opening} {json.dumps(name)} {name_mark} arguments_{i}"
        rules += [f"call_{i}: {call}", f"arguments_{i}: %json {schema}"]
    return "\n".join(["%llguidance {}", *rules, ""])
