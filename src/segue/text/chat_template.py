"""Messages to the model's own prompt text, by the Jinja template that its folder brings."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
from jinja2 import meta

from segue.core.errors import TemplateError
from segue.text.template_limits import printed_size
from segue.text.template_sandbox import RaisedByTemplate, TemplateEnvironment, render_budget

__all__ = ["ChatTemplate", "cut_after_final_message"]

# TGI's rewrite (spec 4.2): templates that take content only as chunks, where it is always one string here.
_REWRITES = {"messages[0]['content'][0]['text']": "messages[0]['content']"}


class ChatTemplate:
    """One compiled template. Thread-safe; rendering is bounded in time and memory (``template_sandbox``)."""

    def __init__(self, source: str, *, bos_token: str | None, eos_token: str | None) -> None:
        """Raises TemplateError when ``source`` is not a template."""
        for old, new in _REWRITES.items():
            source = source.replace(old, new)
        self.source = source
        tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {name: token for name, token in tokens.items() if token is not None}
        environment = _environment()
        try:
            variables = meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except Exception as error:
            raise TemplateError(_reason(error)) from error
        self.uses_tools = "tools" in variables
        """The template shows the tools to the model by itself."""
        self.uses_tool_calls = "tool_calls" in source
        """The template writes earlier tool calls in the model's own format."""

    @classmethod
    def from_templates(
        cls, templates: Mapping[str, str], *, bos_token: str | None, eos_token: str | None, name: str = "default"
    ) -> "ChatTemplate":
        """The template ``name`` of ``Tokenizer.chat_templates``. Raises TemplateError when there is none."""
        if name not in templates:
            raise TemplateError("template not found")
        return cls(templates[name], bos_token=bos_token, eos_token=eos_token)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **extra: Any,
    ) -> str:
        """The prompt. ``messages`` and ``tools`` are plain JSON data; ``extra`` are more variables of the template.

        Raises TemplateError for whatever goes wrong in the template, its own ``raise_exception`` included.
        """
        variables = {
            **self._tokens,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **extra,
        }
        try:
            with render_budget(printed_size([messages, tools, list(extra.values())], sys.maxsize)):
                return self._template.render(variables)
        except Exception as error:
            raise TemplateError(_reason(error)) from error


def cut_after_final_message(prompt: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """TGI's way to let the model continue the assistant's last message (spec 4.2).

    When the last of the ``messages``, as given to the template, is the assistant's, the prompt ends right after the
    last occurrence of its content, without the whitespace there.
    """
    if not messages or messages[-1].get("role") != "assistant" or messages[-1].get("tool_calls"):
        return prompt
    content = messages[-1].get("content") or ""
    start = prompt.rfind(content)
    return prompt if start < 0 else prompt[: start + len(content)].rstrip()


@cache
def _environment() -> TemplateEnvironment:
    return TemplateEnvironment()


def _reason(error: Exception) -> str:
    """As TGI's template engine words it: kind, text, place."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"syntax error: {error.message} (in <string>:{error.lineno})"
    kind = "invalid operation"
    if isinstance(error, RaisedByTemplate | SyntaxError):
        kind = "syntax error"
    elif isinstance(error, jinja2.UndefinedError):
        kind = "undefined value"
    return f"{kind}: {error or type(error).__name__} (in <string>:{_template_line(error)})"


def _template_line(error: Exception) -> int:
    line, traceback = 1, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
