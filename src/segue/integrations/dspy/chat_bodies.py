"""Between DSPy's requests, in OpenAI's words, and TGI's chat route. No I/O, and no dspy."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel

from segue.client.types import ChatChoice, ChatCompletion

__all__ = ["chat_body", "openai_response", "to_grammar"]

# DSPy's own, or those of a connection.
_OWN = ("rollout_id", "cache", "n", "num_retries", "api_key", "api_base", "base_url", "model")


def chat_body(model: str, messages: list[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if name not in _OWN and value is not None}
    if "response_format" in given:
        given["response_format"] = to_grammar(given["response_format"])
    return {"model": model, "messages": messages, **given}


def to_grammar(response_format: Any) -> Any:
    """TGI's shape, which every version with grammars knows; what has no schema is left as it is."""
    if isinstance(response_format, type) and issubclass(response_format, BaseModel):
        return {"type": "json", "value": response_format.model_json_schema()}
    if isinstance(response_format, Mapping):
        schema = (response_format.get("json_schema") or {}).get("schema")
        if schema:
            return {"type": "json", "value": schema}
    return response_format


def openai_response(answers: list[ChatCompletion]) -> SimpleNamespace:
    """One response with a choice of each answer, as attributes; the usage is their sum."""
    prompt_tokens = sum(answer.usage.prompt_tokens or 0 for answer in answers)
    completion_tokens = sum(answer.usage.completion_tokens or 0 for answer in answers)
    return SimpleNamespace(
        id=answers[0].id,
        model=answers[0].model,
        choices=[_choice(index, answer.choices[0]) for index, answer in enumerate(answers)],
        usage={
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    )


def _choice(index: int, choice: ChatChoice) -> SimpleNamespace:
    calls = [
        SimpleNamespace(
            id=c.id, type=c.type, function=SimpleNamespace(name=c.function.name, arguments=c.function.arguments)
        )
        for c in choice.message.tool_calls
    ]
    message = SimpleNamespace(role=choice.message.role, content=choice.message.content, tool_calls=calls or None)
    return SimpleNamespace(index=index, message=message, finish_reason=choice.finish_reason)
