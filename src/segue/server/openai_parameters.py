"""What OpenAI's chats and completions ask for alike, in TGI's words."""

from dataclasses import replace
from typing import TypedDict

from segue.core.errors import ValidationError
from segue.protocol.openai import ChatRequest, CompletionRequest
from segue.server.admission import Ask
from segue.server.floats import round_to_f32

__all__ = ["Randomness", "choices", "logit_bias", "randomness", "stop_strings"]


class Randomness(TypedDict):
    """Fields of ``GenerateParameters``."""

    do_sample: bool
    temperature: float | None
    top_p: float | None


def randomness(temperature: float | None, top_p: float | None) -> Randomness:
    """A temperature of 0 is greedy, also one that an f32 cannot tell from 0; a ``top_p`` of 1 is none at all."""
    is_greedy = temperature is not None and round_to_f32(temperature) == 0.0
    return Randomness(
        do_sample=not is_greedy,
        temperature=None if is_greedy else temperature,
        top_p=None if top_p is not None and round_to_f32(top_p) == 1.0 else top_p,
    )


def stop_strings(stop: str | list[str] | None) -> list[str]:
    """Each once: some clients send their defaults twice, and the number is limited."""
    return [stop] if isinstance(stop, str) else list(dict.fromkeys(stop or ()))


def logit_bias(body: ChatRequest | CompletionRequest) -> dict[str, float] | None:
    """Raises ValidationError for a list, which TGI takes and ignores, that asks for anything."""
    if isinstance(body.logit_bias, list):
        if any(body.logit_bias):
            raise ValidationError("`logit_bias` must map token ids to numbers; a list is not supported")
        return None
    return body.logit_bias


def choices(ask: Ask, n: int | None, max_n: int) -> list[Ask]:
    """``n`` of ``ask``, each with its own seed. Raises ValidationError; ``max_n`` is what the server runs at once."""
    n = 1 if n is None else n
    if n != 1 and not 0 < n <= max_n:
        raise ValidationError(f"`n` must be > 0 and <= {max_n}. Given: {n}")
    seed = ask.parameters.seed
    if seed is None:
        return [ask] * n
    seeded = [ask.parameters.model_copy(update={"seed": (seed + index) % 2**64}) for index in range(n)]
    return [replace(ask, parameters=parameters) for parameters in seeded]
